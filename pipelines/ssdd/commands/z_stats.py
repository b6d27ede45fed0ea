"""`ssdd z-stats`: mean and standard deviation of an encoder's latents."""

import json
from pathlib import Path

import click

from ssdd.commands import options


@click.command("z-stats", short_help="Mean and standard deviation of latents.")
@click.argument("images", nargs=-1, required=True, type=options.EXISTING)
@click.option("-o", "--output", required=True, type=options.NEW_FILE, help="File for the statistics (JSON).")
@options.model
@click.option("--im-size", type=click.IntRange(1), default=256, show_default=True, help="Side of the images in pixels.")
@click.option("--limit", type=click.IntRange(1), help="Use at most this many images, a fixed random choice.")
@options.batch_size
@options.device
def z_stats(
    images: tuple[Path, ...], output: Path, model: str, im_size: int, limit: int | None, batch_size: int, device: str
) -> None:
    """Compute the statistics of the latents of IMAGES, files or folders.

    Each image is resized (bilinear) so that its short side has --im-size pixels, cropped at its centre, and encoded to
    the mode of its posterior. Mean and unbiased standard deviation are accumulated in float64, per channel and overall,
    in constant memory. Unreadable files are skipped and listed on the screen, and so are images with a side under 16
    pixels or longer than 32 : 1. The command fails only if no image is left.

    \b
    ssdd z-stats photos/ --model encoder.safetensors -o stats.json
    """
    from ssdd.data.image_dataset import ImageDataset
    from ssdd.data.image_index import index_images
    from ssdd.data.transforms import EvalTransform
    from ssdd.evaluation.latent_statistics import latent_statistics
    from ssdd.files import atomic_write, sha256_file
    from ssdd.imaging.picture_files import THREADS, NamedImages
    from ssdd.processes import choose_device
    from ssdd.texts import utf8

    options.check_output(output, images)
    file = options.encoder_file(model)
    choose_device(device)  # refused before any image is read
    source = NamedImages(images)
    # The user chose these images, so none is held out, and any number of rejected files is only reported.
    found = index_images(source, limit=limit, held_out=0, max_rejected=1, workers=THREADS)
    options.report_rejected(list(found.rejected.itertuples()))
    dataset = ImageDataset(found.index, source, EvalTransform(im_size=im_size))
    statistics = latent_statistics(file, dataset, batch_size, device=device)
    content = {
        **statistics.to_dict(),
        "images": len(dataset),
        "im_size": im_size,
        "resize": f"{EvalTransform.resize_filter}, {EvalTransform.crop} crop",
        "model": {"file": utf8(file.name), "sha256": sha256_file(file)},
    }
    with atomic_write(output) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    moments = f"mean {statistics.overall_mean:.6g}, std {statistics.overall_std:.6g}"
    options.say(f"{output}: {moments} over {options.count(len(dataset))}")
