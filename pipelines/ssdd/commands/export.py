"""`ssdd export`: a model, or the KL-VAE of a run, for diffusers; a model for ONNX, OpenVINO or torch.export."""

from pathlib import Path
from typing import Any

import click

from ssdd.commands import options


@click.command(short_help="Export a model to diffusers, ONNX, OpenVINO or torch.export.")
@click.argument("file", metavar="FILE")
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Choice(["diffusers", "kl", "onnx", "openvino", "torch-export"]),
    help="Format; onnx and openvino need the extras of these names; kl is the KL-VAE of a run, for diffusers.",
)
@click.option("-o", "--output", required=True, type=options.NEW_FOLDER, help="Folder for the files.")
@click.option(
    "--part",
    type=click.Choice(["encoder", "decoder"]),
    default="decoder",
    show_default=True,
    help="The network; diffusers gets both.",
)
@options.steps
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Seed of noise that the decoder's file then holds, 256 x 256 pixels, repeated; else noise is an input.",
)
@click.option("--adversarial", is_flag=True, help="With kl: the decoder that was trained with an adversary.")
def export(file: str, target: str, output: Path, part: str, steps: int, seed: int | None, adversarial: bool) -> None:
    """Export FILE, a checkpoint (or its folder, RUN, RUN@best, demo), and write its model card beside.

    Batch, height and width of the exported file are free, and it computes in float32. Its results are compared with the
    model's at three sizes; a file that differs by more than 1e-4 is not kept. It carries the configuration, the scaling
    of the latents, and the record of the run that made it.

    The decoder takes latents `z` and `noise`, F times their size, and gives the `image` in about [-1, 1]. The encoder
    takes an `image` and gives `mean` and `logvar`.

    With kl, FILE is a run that has trained such a decoder (kedro run --pipeline=train_kl), and the result an
    AutoencoderKL. That class has neither patches nor linear shortcuts, and one list of widths for both networks. So the
    run needs an encoder f<F>c<C> and a decoder of its widths, as conf/imagenet has them.

    \b
    ssdd export quickstart --to onnx -o exported
    ssdd export imagenet --to kl -o vae
    """
    from ssdd.packaged import resolve

    if target == "kl":
        click.echo(_to_kl(file, output, adversarial))
        return
    if adversarial:
        raise click.UsageError("--adversarial goes with --to kl")
    file = options.found_model(file)
    checkpoint = resolve(file, "ssdd.safetensors")
    try:
        if target == "diffusers":
            said = _to_diffusers(checkpoint, output, steps)
        else:
            said = _to_runtime(checkpoint, target, part, output, steps, seed)
    except ModuleNotFoundError as error:
        raise click.ClickException(str(error)) from None
    _write_card(checkpoint, output)
    click.echo(said)


def _to_diffusers(checkpoint: Path, output: Path, steps: int) -> str:
    from ssdd import AutoencoderSSDD

    AutoencoderSSDD.from_pretrained(checkpoint, num_inference_steps=steps).save_pretrained(output)
    return f"{output}: an AutoencoderSSDD for pipelines of diffusers"


def _to_kl(source: str, output: Path, adversarial: bool) -> str:
    from ssdd.baselines import KLAutoencoder
    from ssdd.kl_export import export_kl
    from ssdd.model_files import find_kl

    file = find_kl(source, adversarial)
    return f"{export_kl(KLAutoencoder.from_pretrained(file), output)}: {file} as an AutoencoderKL"


def _to_runtime(checkpoint: Path, target: Any, part: Any, output: Path, steps: int, seed: int | None) -> str:
    from ssdd.autoencoder import SSDD
    from ssdd.integrations.exported_graphs import export_part
    from ssdd.integrations.graph_files import check_target

    check_target(target)
    model = SSDD.from_pretrained(checkpoint).float()
    file, difference = export_part(
        model, target, part, output, steps=steps, seed=seed, record={"model": _record(checkpoint)}
    )
    return f"{file}: differs from the model by {difference:.1g} at most, at three sizes"


def _record(checkpoint: Path) -> dict[str, Any]:
    """The origin of a checkpoint: its hash, and what its stamp says about its run."""
    from ssdd import __version__
    from ssdd.files import sha256_file
    from ssdd.lineage.stamps import read_stamp

    stamp = read_stamp(checkpoint)
    about = stamp.about if stamp else {}
    return {
        "file": checkpoint.name,
        "sha256": sha256_file(checkpoint),
        "version": __version__,
        "lineage": {name: about[name] for name in ("run", "command", "commit", "dirty", "started") if name in about},
    }


def _write_card(checkpoint: Path, folder: Path) -> None:
    from ssdd.files import atomic_write
    from ssdd.stages.release.run_card import card_of

    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(card_of(checkpoint), encoding="utf-8")
