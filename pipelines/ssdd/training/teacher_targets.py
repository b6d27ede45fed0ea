"""The teacher's results, written once and read in every epoch: (noise seed, z, x_T) of each image.

A shard holds consecutive images and is one sealed file (`ssdd.training.sealed`). A sound shard of the same fingerprint
is not made again. The cache holds one view of each image (that of epoch 0) and one noise draw, which is enough for
distillation.
"""

# C latent channels, h w latent cells, H W pixels, N images of a shard

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssdd.data.image_dataset import ImageDataset
from ssdd.encoders import AnyEncoder
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import TargetParameters
from ssdd.progress import Show, bar
from ssdd.training.sealed import SealedStore
from ssdd.upscaling import shrink
from ssdd_decoder import Decoder
from ssdd_decoder.distill import teacher_target

Span = tuple[int, int]
"""The images [first, last) of a shard."""

OPEN_SHARDS = 64  # opening one costs as much as reading a row (tens of microseconds), far less than an image


def write_targets(
    encoder: AnyEncoder,
    teacher: Decoder,
    images: ImageDataset,
    targets: TargetParameters,
    folder: Path,
    fingerprint: str,
    *,
    seed: int,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    progress: Show = True,
) -> None:
    """Makes this process's share of the missing shards. Call `clean_targets` before, in one process.

    Args:
        encoder, teacher: frozen, on the device to use.
        images: taken with their augmentation of epoch 0.
        targets: teacher steps, images per shard, dtype of x_T.
        folder: of the shards; a finished shard of this fingerprint is not checked again.
        fingerprint: of everything that decides their content.
        seed: of the noise.
        batch_size: images at a time.
        workers: data loader workers.
        rank, processes: shards are dealt out in turn.
        progress: the display of this process's progress, on rank 0.

    Raises:
        OSError: the disk is full; finished shards are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    store = _store(folder, fingerprint)
    finished = sound_shards(folder, fingerprint, check=False)  # checked by `clean_targets`, and not once per process
    mine = [span for span in spans(len(images), targets)[rank::processes] if span not in finished]
    with bar("teacher targets", sum(b - a for a, b in mine), progress if rank == 0 else False) as advance:
        for first, last in mine:
            batches = []
            for batch in _shard_loader(images, first, last, batch_size, workers):
                batches.append(_targets(encoder, teacher, batch, targets, seed))
                advance(len(batch["index"]))
            tensors = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
            store.write(f"{first:09d}-{last:09d}", tensors, {})


def spans(images: int, targets: TargetParameters) -> list[Span]:
    """Returns the span of each shard."""
    return [(a, min(a + targets.shard_size, images)) for a in range(0, images, targets.shard_size)]


def clean_targets(folder: Path, fingerprint: str, images: int, targets: TargetParameters) -> None:
    """Removes all but the sound shards of this fingerprint; call it before any process writes."""
    sound, store = sound_shards(folder, fingerprint), _store(folder, fingerprint)
    kept = {sound[span] for span in spans(images, targets) if span in sound}
    store.sweep([path for path in store.paths() if path not in kept])


def sound_shards(folder: Path, fingerprint: str, check: bool = True) -> dict[Span, Path]:
    """Returns the undamaged shards of a fingerprint by their span.

    Args:
        folder: the shards.
        fingerprint: that they must have.
        check: compare each shard's content and name, which reads every byte; without it, names are trusted.
    """
    store = _store(folder, fingerprint)
    numbers = {path: store.numbers(path) for path, _ in store.documents(check=check)}
    return {(found[0], found[1]): path for path, found in numbers.items() if len(found) == 2}


def check_targets(shards: Sequence[Span], images: int, folder: Path) -> None:
    """Refuses shards that do not hold each image of a data set once.

    Raises:
        ValueError: says how many images in a row there are.
    """
    expected = 0
    for first, last in shards:
        if first != expected:
            break
        expected = last
    if expected != images or sum(last - first for first, last in shards) != images:
        raise ValueError(
            f"expected sound teacher targets for {images} images in {folder}, got {expected} in a row: "
            "make the targets again (finished shards are kept)"
        )


class CachedTargets(Dataset[dict[str, Any]]):
    """The images of a data set as seen in epoch 0, with their cached `z`, `target` and `noise`.

    Args:
        images: the data set that the targets were made of.
        folder: the shards.
        fingerprint: that they must have.
        with_images: load `image` too. Opening, decoding and augmenting an image costs far more than reading its
            target, and only losses that use the real image need it.

    Raises:
        ValueError: shards are missing, damaged or of another fingerprint.
    """

    def __init__(self, images: ImageDataset, folder: Path, fingerprint: str, with_images: bool = True):
        self.images, self.with_images = images, with_images
        shards = sorted(sound_shards(folder, fingerprint).items())
        check_targets([span for span, _ in shards], len(images), folder)
        self._size = shards[0][0][1]
        self._paths = [path for _, path in shards]
        self._files: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the open files out: a data loader's worker maps its own."""
        return self.__dict__ | {"_files": {}}

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Returns the example of an image, whatever the epoch."""
        _, index = key
        shard, row = divmod(index, self._size)
        file = self._shard(shard)
        z, target = file.get_slice("z")[row : row + 1][0], file.get_slice("x_T")[row : row + 1][0].float()
        seed = int(file.get_slice("noise_seed")[row : row + 1][0])
        noise = sample_noise([seed], target.shape)[0]
        example = self.images[0, index] if self.with_images else {"index": index, "path": self.images.path(index)}
        return {**example, "z": z, "target": target, "noise": noise}

    def _shard(self, number: int) -> Any:
        """Returns a shard, memory-mapped; the least recently used one is closed when too many are open."""
        file = self._files.pop(number, None) or safe_open(self._paths[number], framework="pt")
        self._files[number] = file  # the newest comes last
        if len(self._files) > OPEN_SHARDS:
            del self._files[next(iter(self._files))]
        return file


def _store(folder: Path, fingerprint: str) -> SealedStore:
    return SealedStore(folder, "targets", fingerprint)


@torch.no_grad()
def _targets(
    encoder: AnyEncoder, teacher: Decoder, batch: dict[str, Any], targets: TargetParameters, seed: int
) -> dict[str, Tensor]:
    device = teacher.conv_in.weight.device
    indices = batch["index"].tolist()
    seeds = sample_seeds(seed, "noise", 0, indices)
    # On the CPU: `CachedTargets` draws the same noise again from the seed, perhaps on a machine without this GPU.
    noise = sample_noise(seeds, batch["image"].shape[1:])
    z = encoder(shrink(batch["image"].to(device), teacher.config.upscale)).mode().float()
    image = teacher_target(teacher, z, noise.to(device), targets.teacher_steps)
    dtype = torch.float16 if targets.dtype == "float16" else torch.float32
    return {
        "z": z.cpu().contiguous(),
        "x_T": image.to("cpu", dtype).contiguous(),
        "noise_seed": torch.tensor(seeds),
        "index": batch["index"],
    }


def _shard_loader(
    images: ImageDataset, first: int, last: int, batch_size: int, workers: int
) -> Iterator[dict[str, Any]]:
    batches = [[(0, i) for i in range(a, min(a + batch_size, last))] for a in range(first, last, batch_size)]
    # A generator of its own: without one, DataLoader would draw a number from torch's global random state.
    return iter(DataLoader(images, batch_sampler=batches, num_workers=workers, generator=torch.Generator()))
