"""`ssdd encode`: images to latents; `ssdd decode`: latents to images."""

import tempfile
from pathlib import Path

import click

from ssdd.commands import options


@click.command(short_help="Images to latents.")
@click.argument("images", nargs=-1, required=True, type=options.EXISTING)
@click.option("-o", "--output", required=True, type=options.NEW_FILE, help="Latents, as safetensors.")
@options.network_options
def encode(images: tuple[Path, ...], output: Path, model: str, batch_size: int, device: str, precision: str) -> None:
    """Encode IMAGES, files or folders, to one safetensors file.

    It holds a latent (C, h, w) per image, called by the image's name relative to its folder, and in its header the
    sizes of the images, the encoder's configuration and its file's hash. Sides are padded to multiples of the
    down-scale factor; memory does not grow with the number of images. Files that cannot be read are skipped and named;
    the command fails only if all are.

    \b
    ssdd encode photos/ -o latents.safetensors --model distilled.safetensors
    """
    import torch

    from ssdd import __version__
    from ssdd.files import sha256_file
    from ssdd.imaging.folders import encode_images
    from ssdd.imaging.latent_files import LatentHeader, LatentWriter
    from ssdd.processes import choose_device
    from ssdd_encoder import Encoder

    options.check_output(output, images)
    file = options.encoder_file(model)
    encoder = Encoder.from_pretrained(file).to(choose_device(device), getattr(torch, precision))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent) as spool:
        writer = LatentWriter(spool)
        rejected = encode_images(encoder, images, writer.add, batch_size)
        options.report_rejected(rejected)
        if not writer.sizes:
            raise click.ClickException(f"none of {len(rejected)} files could be read; {output} was not written")
        header = LatentHeader(
            downscale=encoder.config.downscale,
            latent_channels=encoder.config.latent_channels,
            sizes=writer.sizes,
            model={"file": file.name, "sha256": sha256_file(file)},
            encoder=_plain(encoder.config),
            precision=precision,
            version=__version__,
        )
        writer.finish(output, header)
    click.echo(f"{output}: {options.count(len(writer.sizes))}, {len(rejected)} skipped")


@click.command(short_help="Latents to images.")
@click.argument("latents", type=options.EXISTING_FILE)
@click.option("-o", "--output", required=True, type=options.NEW_FOLDER, help="Folder for the PNG files.")
@options.network_options
@options.steps
@options.seed
def decode(
    latents: Path, output: Path, model: str, batch_size: int, device: str, precision: str, steps: int, seed: int
) -> None:
    """Decode LATENTS, a file of `ssdd encode`, to PNG files.

    Names and sizes are those of the images that were encoded. The noise of each image depends on the seed and its name
    alone, so the result does not change with the batch size or with what else is in the file.

    \b
    ssdd decode latents.safetensors -o decoded/ --model distilled.safetensors --steps 1
    """
    import torch

    from ssdd.imaging.folders import decode_latents
    from ssdd.imaging.latent_files import StoredLatents, check_fits
    from ssdd.processes import choose_device
    from ssdd_decoder import Decoder

    stored = StoredLatents(latents)
    decoder = Decoder.from_pretrained(model)
    check_fits(stored.header, decoder.config)
    decoder.to(choose_device(device), getattr(torch, precision))
    written = decode_latents(decoder, stored, output, steps=steps, seed=seed, batch_size=batch_size)
    click.echo(f"{output}: {options.count(len(written))}")


def _plain(config: object) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(config)  # type: ignore[call-overload]
