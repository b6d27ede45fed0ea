"""The manifest of a folder of latents: what its shards hold, what made them, and their statistics.

A folder holds `manifest.json` and safetensors files `latents-00000.safetensors`, ... Each shard has the tensors

    mean, logvar                  (N, C, h, w)  the posterior as the encoder made it, not normalised
    mean_flipped, logvar_flipped  (N, C, h, w)  the same of the mirrored images
    label                         (N,) int64    number of the class, -1 where there is none
    index                         (N,) int64    row of the image in the index

of which all but `mean`, `label` and `index` may be missing. The header of a shard holds the names of its images and the
facts of the manifest that a reader of this shard alone needs.
"""

# C latent channels, h w latent cells, N images of a shard

import hashlib
import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ssdd.data.source import TRAIN
from ssdd.files import atomic_write
from ssdd.imaging.latent_header import MANIFEST
from ssdd_encoder import LatentAccumulator, LatentStatistics

FORMAT = "ssdd-latents"
VERSION = 1
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}

Moments = dict[str, Any]
"""Exact sums of one accumulator: `count`, `mean` and `squares`, in float64."""


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One shard.

    Args:
        file: its name.
        split: `train` or `validation`.
        first: number of its first image within the split.
        count: N.
        sha256: of the file.
    """

    file: str
    split: str
    first: int
    count: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts about a folder of latents.

    Args:
        encoder: `file` and `sha256` of the checkpoint, `weights_sha256` of the encoder alone, and `config`.
        downscale: F.
        latent_channels: C.
        im_size: side of the images, pixels.
        resize: how they were brought to that side.
        shape: (C, h, w).
        dtype: of the stored latents.
        precision: of the encoder's computation.
        tensors: names of the tensors of each shard.
        classes: names; label k is `classes[k]`.
        moments: split -> exact sums over its stored means, mirrored images left out.
        shards: in order, those of a split together.
    """

    encoder: dict[str, Any]
    downscale: int
    latent_channels: int
    im_size: int
    resize: str
    shape: tuple[int, int, int]
    dtype: str
    precision: str
    tensors: tuple[str, ...]
    classes: tuple[str, ...]
    moments: dict[str, Moments]
    shards: tuple[ShardRecord, ...]

    @property
    def images(self) -> dict[str, int]:
        """Number of images of each split."""
        counts: Counter[str] = Counter()
        for shard in self.shards:
            counts[shard.split] += shard.count
        return dict(counts)

    @property
    def content(self) -> str:
        """SHA-256 over the hashes of all shards."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @cached_property
    def statistics(self) -> LatentStatistics:
        """Statistics of the stored means of the training split, or of all where there is none."""
        chosen = [TRAIN] if TRAIN in self.moments else sorted(self.moments)
        together = LatentAccumulator(self.latent_channels)
        for split in chosen:
            together.merge(accumulator_of(self.moments[split]))
        return together.compute()

    def has(self, tensor: str) -> bool:
        """Whether the shards hold a tensor of this name."""
        return tensor in self.tensors


def moments_of(accumulator: LatentAccumulator) -> Moments:
    """Returns the sums of an accumulator, which `accumulator_of` reads back exactly."""
    return {
        "count": accumulator.count,
        "mean": accumulator.mean.tolist(),
        "squares": accumulator.squares.tolist(),
    }


def accumulator_of(moments: Moments) -> LatentAccumulator:
    """Makes the accumulator whose sums these are."""
    accumulator = LatentAccumulator(len(moments["mean"]))
    accumulator.count = int(moments["count"])
    accumulator.mean = torch.tensor(moments["mean"], dtype=torch.float64)
    accumulator.squares = torch.tensor(moments["squares"], dtype=torch.float64)
    return accumulator


def write_manifest(folder: Path, manifest: Manifest) -> Path:
    """Writes `manifest.json`, with the statistics for readers that know no moments."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        **asdict(manifest),
        "images": manifest.images,
        "statistics": manifest.statistics.to_dict(),
    }
    path = folder / MANIFEST
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Reads the manifest of a folder of latents.

    Raises:
        ValueError: there is none, or it is damaged or of another version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"expected a folder of latents with a {MANIFEST}, got {folder}: write one with the pipeline `latents` or "
            "`ssdd encode --shards`, and let it finish"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.pop("format"), content.pop("version")
        if kind == (FORMAT, VERSION):
            for derived in ("images", "statistics"):
                content.pop(derived)
            shards = tuple(ShardRecord(**shard) for shard in content.pop("shards"))
            lists: dict[str, Any] = {name: tuple(content.pop(name)) for name in ("shape", "tensors", "classes")}
            return Manifest(**content, **lists, shards=shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no whole manifest of latents ({error}): write the latents again") from error
    raise ValueError(f"expected a manifest of {FORMAT}, version {VERSION}, got {kind[0]}, version {kind[1]}: {path}")
