"""`ssdd z-stats`: mean and standard deviation of an encoder's latents."""

import json
import os
from pathlib import Path

import click

from ssdd.commands import options


@click.command("z-stats", short_help="Mean and standard deviation of latents.")
@click.argument("images", nargs=-1, required=True, type=options.EXISTING)
@click.option("-o", "--output", required=True, type=options.NEW_FILE, help="Statistics, as JSON.")
@options.model
@click.option("--im-size", type=click.IntRange(1), default=256, show_default=True, help="Side of the images in pixels.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images, a fixed random choice.")
@options.batch_size
@options.device
def z_stats(
    images: tuple[Path, ...], output: Path, model: str, im_size: int, limit: int | None, batch_size: int, device: str
) -> None:
    """Compute the statistics of the latents of IMAGES, files or folders.

    Each image is resized (bilinear) so that its short side has --im-size pixels, cropped at its centre, and encoded to
    the mode of its posterior. Mean and unbiased standard deviation are accumulated in float64, per channel and overall,
    in constant memory. Files that cannot be read are skipped and named, and so are images of sides under 16 pixels or
    longer than 32 : 1; the command fails only if all are.

    \b
    ssdd z-stats photos/ --model encoder.safetensors -o stats.json
    """
    from ssdd.data import EvalTransform, ImageDataset, prepare
    from ssdd.evaluation.latent_statistics import latent_statistics
    from ssdd.files import atomic_write, sha256_file
    from ssdd.imaging.picture_files import NamedImages
    from ssdd.processes import choose_device

    options.check_output(output, images)
    file = options.encoder_file(model)
    place = choose_device(device)
    source = NamedImages(images)
    prepared = prepare(source, limit=limit, held_out=0, max_rejected=1, workers=min(4, os.cpu_count() or 1))
    for bad in prepared.rejected.head(options.SHOWN).itertuples():
        click.echo(f"skipped {options.printable(bad.path)}: {bad.reason} ({options.printable(bad.detail)})", err=True)
    dataset = ImageDataset(prepared.index, source, EvalTransform(im_size=im_size))
    found = latent_statistics(file, dataset, batch_size, device=place)
    content = {
        **found.to_dict(),
        "images": len(dataset),
        "im_size": im_size,
        "resize": f"{EvalTransform.resize_filter}, {EvalTransform.crop} crop",
        "model": {"file": file.name, "sha256": sha256_file(file)},
    }
    with atomic_write(output) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    click.echo(
        f"{output}: mean {found.overall_mean:.6g}, std {found.overall_std:.6g} over {options.count(len(dataset))}"
    )
