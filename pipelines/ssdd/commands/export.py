"""`ssdd export`: a model of this project in another project's form."""

from pathlib import Path

import click

from ssdd.commands import options


@click.command(short_help="The KL-VAE of a run as a folder for diffusers.")
@click.option(
    "--kl",
    "folder",
    required=True,
    type=options.NEW_FOLDER,
    help="Folder for encoder and KL-VAE decoder, which AutoencoderKL.from_pretrained of diffusers loads.",
)
@click.option(
    "--model",
    "source",
    required=True,
    metavar="MODEL",
    help="A run that has trained one (kedro run --pipeline=train_kl), RUN@best, or the file of a KL-VAE.",
)
@click.option("--adversarial", is_flag=True, help="Of a run, the decoder that was trained with an adversary.")
def export(folder: Path, source: str, adversarial: bool) -> None:
    """Write the frozen encoder and the KL-VAE decoder of a run as a folder that diffusers loads.

    The class AutoencoderKL has neither patches nor linear shortcuts, and one list of widths for both networks. So the
    run needs an encoder f<F>c<C> and a decoder of its widths, as conf/imagenet has them.

    \b
    ssdd export --kl vae --model imagenet
    """
    from ssdd.baselines import KLAutoencoder
    from ssdd.commands.models import find_kl
    from ssdd.kl_export import export_kl

    file = find_kl(source, adversarial)
    click.echo(f"{export_kl(KLAutoencoder.from_pretrained(file), folder)}: {file} as an AutoencoderKL")
