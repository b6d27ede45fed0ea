"""`ssdd convert-latents`: shards of latents in the layouts of other trainers."""

from pathlib import Path
from typing import Any

import click

from ssdd.commands import options


@click.command("convert-latents", short_help="Latents for DiT, SiT or LightningDiT.")
@click.argument("latents", type=options.EXISTING_FOLDER)
@click.option("-o", "--output", required=True, type=options.NEW_FOLDER, help="New folder for the converted latents.")
@click.option(
    "--to",
    "layout",
    required=True,
    type=click.Choice(["dit", "lightningdit"]),
    help="Trainer that reads them: dit (also SiT; NumPy files, normalised by channel) or lightningdit (safetensors).",
)
@click.option("--split", default="train", show_default=True, help="Split to convert: train or validation.")
@click.option(
    "--latent",
    type=click.Choice(["mode", "sample"]),
    default="mode",
    show_default=True,
    help="The mean of the posterior, or one draw.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the draws.")
def convert_latents(latents: Path, output: Path, layout: Any, split: str, latent: Any, seed: int) -> None:
    """Convert LATENTS, the folder of `ssdd encode --shards` or of the pipeline `latents`.

    LightningDiT also reads the latents of mirrored images: encode with --flipped for it. Labels are the numbers of the
    classes; where no image has a class, all labels are 0.

    \b
    ssdd convert-latents latents/ -o features/ --to dit
    """
    from ssdd.generation.latent_conversion import convert
    from ssdd.generation.latent_dataset import LatentDataset

    dit = layout == "dit"
    dataset = LatentDataset(latents, split, latent=latent, normalize=dit, seed=seed)
    mirrored = None if dit else LatentDataset(latents, split, latent=latent, normalize=False, flip="all", seed=seed)
    options.say(f"{output}: {options.count(convert(dataset, output, layout, mirrored))}")
