"""The teacher's results, written once and read in every epoch: (noise seed, z, x_T) of each image.

Shards of consecutive images as safetensors. A shard's name ends with the SHA-256 of its content; a shard that is
there, sound and of the same fingerprint is not made again. The cache holds one view of each image (that of epoch 0)
and one noise draw, which is enough for distillation.
"""

# C latent channels, h w latent cells, H W pixels, N images of a shard

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich
import torch
from rich.progress import track
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssdd.data.image_dataset import ImageDataset
from ssdd.files import atomic_write, sha256_file
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import DistillConfig
from ssdd.runs import LEFTOVERS
from ssdd.training.resume_state import one_header, read_header, write_safetensors
from ssdd_decoder import Decoder
from ssdd_decoder.distill import teacher_target
from ssdd_encoder import Encoder

log = logging.getLogger(__name__)

OPEN_SHARDS = 64  # opening one costs as much as reading a row (tens of microseconds), far less than an image
SHARD_NAME = re.compile(r"targets-(\d{9})-(\d{9})-([0-9a-f]{32})\.safetensors")


def write_targets(
    encoder: Encoder,
    teacher: Decoder,
    dataset: ImageDataset,
    config: DistillConfig,
    folder: Path,
    fingerprint: str,
    *,
    seed: int,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    progress: bool = True,
) -> None:
    """Makes this process's share of the missing shards.

    Args:
        encoder, teacher: frozen, on the device to use.
        dataset: the images, seen as in epoch 0.
        config: teacher steps, images per shard, dtype of x_T.
        folder: where the shards go.
        fingerprint: of everything that decides their content.
        seed: of the noise.
        batch_size: images at a time.
        workers: data loader workers.
        rank, processes: shards are dealt out in turn.
        progress: show a bar.

    Raises:
        OSError: the disk is full; finished shards are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished = sound_shards(folder, fingerprint)
    mine = [span for span in spans(len(dataset), config)[rank::processes] if span not in finished]
    shown = progress and rank == 0
    for first, last in track(mine, "teacher targets", console=rich.get_console(), disable=not shown):
        loader = _shard_loader(dataset, first, last, batch_size, workers)
        batches = [_targets(encoder, teacher, batch, config, seed) for batch in loader]
        tensors = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        unnamed = folder / f"targets-unnamed-{first:09d}.safetensors"
        with atomic_write(unnamed) as path:
            write_safetensors(tensors, path, one_header({"fingerprint": fingerprint}))
        os.replace(unnamed, folder / f"targets-{first:09d}-{last:09d}-{sha256_file(unnamed)[:32]}.safetensors")


def spans(images: int, config: DistillConfig) -> list[tuple[int, int]]:
    """Returns the images [first, last) of each shard."""
    return [(a, min(a + config.shard_size, images)) for a in range(0, images, config.shard_size)]


def clean_targets(folder: Path, fingerprint: str, images: int, config: DistillConfig) -> None:
    """Removes all but the sound shards of this fingerprint; call it before any process writes."""
    sound = sound_shards(folder, fingerprint)
    kept = {sound[span] for span in spans(images, config) if span in sound}
    for pattern in (*LEFTOVERS, "targets-*.safetensors"):
        for path in folder.glob(pattern):
            if path not in kept:
                path.unlink(missing_ok=True)


def sound_shards(folder: Path, fingerprint: str) -> dict[tuple[int, int], Path]:
    """Returns the undamaged shards of a fingerprint by their span of images [first, last)."""
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.glob("targets-*.safetensors")):
        name = SHARD_NAME.fullmatch(path.name)
        if name is None or not path.is_file():
            continue
        if sha256_file(path)[:32] != name[3]:
            log.warning("%s is damaged and is left aside", path)
            continue
        with safe_open(path, framework="pt") as file:
            if read_header(file.metadata())["fingerprint"] == fingerprint:
                found[int(name[1]), int(name[2])] = path
    return found


class CachedTargets(Dataset[dict[str, Any]]):
    """The images of a data set as seen in epoch 0, with their cached `z`, `target` and `noise`.

    Args:
        dataset: the images that the targets were made of.
        folder: the shards.
        fingerprint: that they must have.

    Raises:
        ValueError: shards are missing, damaged or of another fingerprint.
    """

    def __init__(self, dataset: ImageDataset, folder: Path, fingerprint: str):
        self.dataset = dataset
        shards = sorted(sound_shards(folder, fingerprint).items())
        expected = 0
        for (first, last), _ in shards:
            if first != expected:
                break
            expected = last
        if expected != len(dataset) or sum(last - first for (first, last), _ in shards) != len(dataset):
            raise ValueError(
                f"expected sound teacher targets for {len(dataset)} images in {folder}, got {expected} in a row: "
                "make the targets again (finished shards are kept)"
            )
        self._size = shards[0][0][1]
        self._paths = [path for _, path in shards]
        self._files: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": {}}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Returns the example of an image, whatever the epoch."""
        _, index = key
        shard, row = divmod(index, self._size)
        file = self._shard(shard)
        z, target = file.get_slice("z")[row : row + 1][0], file.get_slice("x_T")[row : row + 1][0].float()
        seed = int(file.get_slice("noise_seed")[row : row + 1][0])
        noise = sample_noise([seed], target.shape)[0]
        return {**self.dataset[0, index], "z": z, "target": target, "noise": noise}

    def _shard(self, number: int) -> Any:
        """Returns a shard, memory-mapped; the least recently used one is closed where too many are open."""
        file = self._files.pop(number, None) or safe_open(self._paths[number], framework="pt")
        self._files[number] = file  # the newest comes last
        if len(self._files) > OPEN_SHARDS:
            del self._files[next(iter(self._files))]
        return file


@torch.no_grad()
def _targets(
    encoder: Encoder, teacher: Decoder, batch: dict[str, Any], config: DistillConfig, seed: int
) -> dict[str, Tensor]:
    device = teacher.conv_in.weight.device
    indices = batch["index"].tolist()
    seeds = sample_seeds(seed, "noise", 0, indices)
    noise = sample_noise(seeds, batch["image"].shape[1:])  # on the CPU: the same on every machine
    z = encoder(batch["image"].to(device)).mode().float()
    image = teacher_target(teacher, z, noise.to(device), config.teacher_steps)
    dtype = torch.float16 if config.cache_dtype == "float16" else torch.float32
    return {
        "z": z.cpu().contiguous(),
        "x_T": image.to("cpu", dtype).contiguous(),
        "noise_seed": torch.tensor(seeds),
        "index": batch["index"],
    }


def _shard_loader(
    dataset: ImageDataset, first: int, last: int, batch_size: int, workers: int
) -> Iterator[dict[str, Any]]:
    batches = [[(0, i) for i in range(a, min(a + batch_size, last))] for a in range(first, last, batch_size)]
    return iter(DataLoader(dataset, batch_sampler=batches, num_workers=workers, generator=torch.Generator()))
