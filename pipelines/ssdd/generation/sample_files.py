"""Samples as files for people: a picture for each seed, and a table of seeds and classes."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ssdd.files import atomic_write
from ssdd.generation.drawing import Decode, to_levels
from ssdd.generation.generator import Generator
from ssdd.generation.latent_sampler import sample_latents
from ssdd.generation.sample_shards import pieces
from ssdd.generation_parameters import SamplingParameters
from ssdd.progress import bar

TABLE = "samples.csv"


def write_pictures(
    folder: Path,
    generator: Generator,
    decode: Decode,
    seeds: range,
    labels: Sequence[int],
    sampling: SamplingParameters,
    batch_size: int,
    progress: bool = True,
) -> None:
    """Draws, decodes and writes a PNG file for each seed, named by it, and then the table.

    Args:
        folder: of the files; others of the same names are replaced.
        generator: on its device.
        decode: of its latents.
        seeds: N of them.
        labels: N classes, -1 for none.
        sampling: method, steps, guidance, shift.
        batch_size: images at a time.
        progress: whether to show a bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{seed:06d}.png" for seed in seeds]
    with bar("generating", len(seeds), show=progress) as advance:
        for part in pieces(range(len(seeds)), batch_size):
            own = torch.tensor([labels[number] for number in part])
            z = sample_latents(generator, [seeds[number] for number in part], own, sampling)
            for number, image in zip(part, to_levels(decode(z)), strict=True):
                with atomic_write(folder / names[number]) as temporary:
                    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(temporary, "PNG")
            advance(len(part))
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["file", "seed", "class"])
    table.writerows(zip(names, seeds, ("" if label < 0 else label for label in labels), strict=True))
    with atomic_write(folder / TABLE) as temporary:
        temporary.write_bytes(text.getvalue().encode())
