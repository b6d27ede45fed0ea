"""Latents in the layouts that other trainers of generators read."""

# C latent channels, h w latent cells, N images of a file

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ssdd.files import TEMPORARY_SUFFIX
from ssdd.generation.latent_dataset import LatentDataset
from ssdd.progress import bar

Layout = Literal["dit", "lightningdit"]
IMAGES_PER_FILE = 10_000  # of LightningDiT's own files


def convert(
    dataset: LatentDataset,
    out: Path,
    layout: Layout,
    mirrored: LatentDataset | None = None,
    progress: bool = True,
) -> int:
    """Writes the latents of a data set in the layout of another trainer; the folder appears whole or not at all.

    * `dit`, of DiT and SiT on stored features (fast-DiT): `imagenet256_features/0.npy`, ..., float32 (1, C, h, w), and
      `imagenet256_labels/0.npy`, ..., int64 (1,). The names have 256 in them whatever the size: that trainer reads no
      others. The latents should be normalised.
    * `lightningdit`: safetensors files with `latents`, `latents_flip` (N, C, h, w), float32, and `labels` (N,), and
      `latents_stats.pt` with `mean` and `std`, (1, C, 1, 1), by which that trainer normalises them itself.

    Args:
        dataset: the latents; an image without a class has label 0 if no image has one.
        out: a new folder.
        layout: the trainer's name.
        mirrored: the latents of the mirrored images, for `lightningdit`.
        progress: shows a bar.

    Returns:
        the number of images.

    Raises:
        ValueError: the folder has files in it, some images have a class and others none, or `mirrored` is missing.
        OSError: the disk is full.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"expected a new folder for the converted latents, got {out}, which is there: choose another")
    if layout == "lightningdit" and mirrored is None:
        raise ValueError("expected the latents of mirrored images too, since LightningDiT reads them: write both")
    with _whole_folder(out) as folder, bar("converting", len(dataset), show=progress) as advance:
        if layout == "dit":
            _write_arrays(dataset, folder, advance)
        else:
            assert mirrored is not None
            _write_files(dataset, mirrored, folder, advance)
    return len(dataset)


def _write_arrays(dataset: LatentDataset, folder: Path, advance: Callable[[int], None]) -> None:
    features, labels = folder / "imagenet256_features", folder / "imagenet256_labels"
    for place in (features, labels):
        place.mkdir()
    for number in range(len(dataset)):
        item = dataset[number]
        np.save(features / f"{number}.npy", item["z"][None].numpy())
        np.save(labels / f"{number}.npy", np.array([_label(dataset, number, item["label"])]))
        advance(1)


def _write_files(dataset: LatentDataset, mirrored: LatentDataset, folder: Path, advance: Callable[[int], None]) -> None:
    for part, first in enumerate(range(0, len(dataset), IMAGES_PER_FILE)):
        numbers = range(first, min(first + IMAGES_PER_FILE, len(dataset)))
        items = [dataset[number] for number in numbers]
        labels = [_label(dataset, number, item["label"]) for number, item in zip(numbers, items, strict=True)]
        tensors = {
            "latents": torch.stack([item["z"] for item in items]),
            "latents_flip": torch.stack([mirrored[number]["z"] for number in numbers]),
            "labels": torch.tensor(labels),
        }
        save_file(tensors, folder / f"latents_rank00_shard{part:03d}.safetensors", {"total_size": str(len(items))})
        advance(len(items))
    statistics = dataset.manifest.statistics
    torch.save(
        {"mean": _per_channel(statistics.mean), "std": _per_channel(statistics.std)}, folder / "latents_stats.pt"
    )


def _per_channel(values: Tensor) -> Tensor:
    return values.float().view(1, -1, 1, 1)


def _label(dataset: LatentDataset, number: int, label: int) -> int:
    if label >= 0:
        return label
    if dataset.manifest.classes:
        raise ValueError(
            f"expected a class for each image, since others have one, got none for {dataset.path(number)!r}: put it "
            "into the folder of a class, or leave it out"
        )
    return 0


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """Yields a temporary folder, which becomes `out` on success and is removed on any failure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name[:40]}.", suffix=TEMPORARY_SUFFIX, dir=out.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o777 & ~_umask())  # mkdtemp makes folders that only their owner can read
        os.replace(temporary, out)
    except BaseException:  # an interrupt must not leave it either
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
