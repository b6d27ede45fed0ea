"""Latents of a folder of shards as a map-style data set, memory-mapped: for any sampler, in any order."""

# B batch, C latent channels, h w latent cells, N images of a shard

import bisect
import json
import os
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.data import Dataset

from ssdd.data.image_dataset import Key
from ssdd.data.source import TRAIN
from ssdd.generation.latent_manifest import ShardRecord, read_manifest
from ssdd.imaging.latent_header import SHARD_HEADER
from ssdd.noise import sample_noise, sample_seed

MAPPED_SHARDS = 1024
"""Shards that stay mapped; a mapping costs address space, and memory only for pages that the system may take back."""


class LatentExample(TypedDict):
    """One item. A loader's batch has the same keys: (B, C, h, w) and two int64 tensors (B,).

    Attributes:
        z: float32 (C, h, w).
        label: number of the class, -1 where there is none.
        index: row of the data set.
    """

    z: Tensor
    label: int
    index: int


class LatentDataset(Dataset[LatentExample]):
    """The latents of one split.

    Args:
        folder: of the stage `latents` or of `ssdd encode --shards`.
        split: `train` or `validation`.
        latent: `mode`, the mean of the posterior, or `sample`, a draw that follows from (seed, epoch, index).
        flip: take half of the images from the mirrored copy, by (seed, epoch, index); or `all` of them.
        normalize: zero mean and unit deviation in each channel, by the statistics of the training split.
        seed: of all draws.
        limit: only the first images of the split.

    Attributes:
        manifest: of the folder.
        shape: (C, h, w).
        content: SHA-256 over the hashes of all shards.

    Raises:
        ValueError: the folder is incomplete, or its shards lack that split, `logvar` or mirrored copies.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        split: str = TRAIN,
        *,
        latent: Literal["sample", "mode"] = "mode",
        flip: bool | Literal["all"] = False,
        normalize: bool = True,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.folder, self.manifest = Path(folder), read_manifest(folder)
        self.split, self.latent, self.flip, self.seed = split, latent, flip, seed
        self.shape, self.content = self.manifest.shape, self.manifest.content
        self._shards = [shard for shard in self.manifest.shards if shard.split == split]
        self._check(latent)
        self._firsts = [shard.first for shard in self._shards]
        self._length = min(self._shards[-1].first + self._shards[-1].count, limit or 2**62)
        statistics = self.manifest.statistics
        self._mean = statistics.mean.float().view(-1, 1, 1) if normalize else None
        self._std = statistics.std.float().view(-1, 1, 1)
        self._mapped: dict[str, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        return self._length

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the mapped shards out: a data loader's worker maps its own."""
        return self.__dict__ | {"_mapped": {}}

    def __getitem__(self, key: Key | int) -> LatentExample:
        """Returns the latent of one image, a pure function of the key.

        Args:
            key: (epoch, index), or an index alone for epoch 0.

        Raises:
            IndexError: there is no such row.
            ValueError: its shard is missing or damaged.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        shard, row = self._place(index)
        tensors = self._tensors(shard)
        drawn = self.flip is True and sample_seed(self.seed, "latent flip", epoch, index) % 2 == 1
        suffix = "_flipped" if drawn or self.flip == "all" else ""
        z = tensors[f"mean{suffix}"][row].float()
        if self.latent == "sample":
            noise = sample_noise([sample_seed(self.seed, "latent", epoch, index)], self.shape)[0]
            z = z + torch.exp(0.5 * tensors[f"logvar{suffix}"][row].float()) * noise
        if self._mean is not None:
            z = (z - self._mean) / self._std
        return LatentExample(z=z, label=int(tensors["label"][row]), index=index)

    def path(self, index: int) -> str:
        """Returns the name of one image in its source; slow, for people and not for training."""
        shard, row = self._place(index)
        with safe_open(self.folder / shard.file, framework="pt") as file:
            paths: list[str] = json.loads(file.metadata()[SHARD_HEADER])["paths"]
        return paths[row]

    def denormalize(self, z: Tensor) -> Tensor:
        """Turns normalised latents (B, C, h, w) into those that a decoder takes."""
        return self.manifest.statistics.denormalize(z)

    def _check(self, latent: str) -> None:
        if not self._shards:
            raise ValueError(f"expected latents of the split {self.split!r}, {self.folder} has {self.manifest.images}")
        if latent not in ("sample", "mode"):
            raise ValueError(f"expected latent 'sample' or 'mode', got {latent!r}")
        if latent == "sample" and not self.manifest.has("logvar"):
            raise ValueError(f"expected logvar in {self.folder}, to sample: write the latents with keep=posterior")
        if self.flip and not self.manifest.has("mean_flipped"):
            raise ValueError(f"expected mirrored copies in {self.folder}: write the latents with flipped=true")
        missing = [shard.file for shard in self._shards if not (self.folder / shard.file).is_file()]
        if missing:
            raise ValueError(f"expected all shards of the manifest in {self.folder}, lacking {missing[:3]}: copy them")

    def _place(self, index: int) -> tuple[ShardRecord, int]:
        """Returns the shard of an image, and its row there."""
        if not 0 <= index < self._length:
            raise IndexError(f"expected an index in [0, {self._length}), got {index}")
        shard = self._shards[bisect.bisect_right(self._firsts, index) - 1]
        return shard, index - shard.first

    def _tensors(self, shard: ShardRecord) -> dict[str, Tensor]:
        """Returns the tensors of a shard, memory-mapped; the one mapped first is dropped when there are too many."""
        if (tensors := self._mapped.get(shard.file)) is None:
            try:
                with safe_open(self.folder / shard.file, framework="pt") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{self.folder / shard.file} is damaged ({error}): write the latents again") from error
            if len(self._mapped) >= MAPPED_SHARDS:
                del self._mapped[next(iter(self._mapped))]
            self._mapped[shard.file] = tensors
        return tensors
