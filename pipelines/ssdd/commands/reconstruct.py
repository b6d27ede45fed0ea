"""`ssdd reconstruct`: a folder of images through encoder and decoder."""

from pathlib import Path
from typing import Any

import click

from ssdd.commands import options


@click.command(short_help="A folder of images through encoder and decoder.")
@click.argument("folder", type=options.EXISTING_FOLDER)
@click.option("-o", "--output", required=True, type=options.NEW_FOLDER, help="Folder for the PNG files.")
@options.network_options
@options.steps
@options.seed
@options.tile
@options.attention_window
def reconstruct(
    folder: Path,
    output: Path,
    model: str,
    batch_size: int,
    device: str,
    precision: str,
    steps: int,
    seed: int,
    tile: int | None,
    attention_window: int | None,
) -> None:
    """Reconstruct every image below FOLDER as a PNG file of the same relative name and the same size.

    Sides are padded to multiples of the down-scale factor by mirroring, and the result is cropped. Images are turned
    upright; transparent parts become white. Two images whose names differ only in the suffix keep it: a.jpg.png,
    a.webp.png. A name of more than 255 bytes is cut, and ends in 8 digits of its hash.

    Files without a result are skipped and listed with the reason, on the screen and in rejected.csv of the output
    folder; the command fails only if no file can be read. The noise of each image depends only on the seed and the
    image's name.

    Ranks of torchrun, srun or mpirun share the images; the results are the same.

    \b
    ssdd reconstruct photos/ -o reconstructed/ --model distilled.safetensors --steps 1
    """
    from ssdd import SSDD
    from ssdd.imaging.encode_decode import REJECTED_FILE, reconstruct_folder
    from ssdd.imaging.large_pictures import Tiling
    from ssdd.imaging.shared_files import Share
    from ssdd.number_formats import number_format
    from ssdd.processes import choose_device

    share = Share.of_launcher()
    chosen: dict[str, Any] = {"steps": steps, "seed": seed, "batch_size": batch_size}
    tiling = Tiling(tile=tile, attention_window=attention_window)
    place = choose_device(device, share.rank)
    network = SSDD.from_pretrained(model).to(place, number_format(precision, place))
    done = reconstruct_folder(network, folder, output, **chosen, tiling=tiling, share=share)
    if not share.leads:
        return
    options.report_rejected(done.rejected, f" in {output / REJECTED_FILE}")
    if not done.written:
        raise click.ClickException(
            f"none of {len(done.rejected)} files could be read and written; see {output / REJECTED_FILE}"
        )
    skipped = f"{len(done.rejected)} skipped, see {REJECTED_FILE}" if done.rejected else "none skipped"
    options.say(f"{output}: {options.count(len(done.written))}, {skipped}")
