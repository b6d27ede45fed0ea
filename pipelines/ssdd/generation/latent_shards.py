"""Every image through the frozen encoder, into shards: by one process or many, each shard whole or not at all.

The shards of one process and of many have the same bytes (with as many threads each): a batch never spans two shards.
A finished shard of the same images, encoder and parameters is not made again, so that an interrupted pass goes on.
"""

# B batch, C latent channels, h w latent cells, N images of a shard

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ssdd.data.image_dataset import Example
from ssdd.data.transforms import EvalTransform
from ssdd.encoders import AnyEncoder, load_encoder, weights_sha256
from ssdd.files import atomic_write, sha256_file
from ssdd.generation.latent_images import LatentImages
from ssdd.generation.latent_manifest import (
    DTYPES,
    VERSION,
    Manifest,
    ShardRecord,
    accumulator_of,
    moments_of,
    write_manifest,
)
from ssdd.generation_parameters import LatentsParameters
from ssdd.imaging.latent_header import MANIFEST, SHARD_HEADER
from ssdd.number_formats import number_format
from ssdd.parameters import RuntimeConfig
from ssdd.processes import choose_device, gather, join_group, launch, use_threads, wait_for_all
from ssdd.progress import Show, bar
from ssdd.runs import LEFTOVERS
from ssdd.texts import utf8
from ssdd_encoder import LatentAccumulator


@dataclass(frozen=True, kw_only=True)
class LatentJob:
    """One pass over the images.

    Args:
        encoder: its checkpoint, in any layout that `load_encoder` reads.
        images: of each split.
        parameters: resolution, dtype, what is kept.
        folder: of the shards.
        runtime: device, processes, workers.
    """

    encoder: Path
    images: tuple[LatentImages, ...]
    parameters: LatentsParameters
    folder: Path
    runtime: RuntimeConfig


@dataclass(frozen=True)
class _Shard:
    number: int
    split: int  # place in `LatentJob.images`
    first: int
    last: int

    @property
    def file(self) -> str:
        return f"latents-{self.number:05d}.safetensors"


def write_latents(job: LatentJob) -> Path:
    """Writes the missing shards in `runtime.processes` processes, and then the manifest.

    Returns:
        the folder.

    Raises:
        ValueError: the checkpoint holds no encoder, an image cannot be read, or a latent is not finite.
        OSError: the disk is full; finished shards are kept.
    """
    use_threads(job.runtime)
    launch(_write_share, job.runtime.processes, job)
    return job.folder


def _write_share(job: LatentJob) -> None:
    rank, processes = join_group()
    encoder = load_encoder(job.encoder).requires_grad_(False).eval()
    facts = _facts(job, encoder)
    header = {"version": VERSION, "origin": _origin(job, facts), **facts}
    shards = _plan(job)
    if rank == 0:
        _sweep(job.folder, {shard.file for shard in shards})
    wait_for_all()  # before any process writes what rank 0 would sweep
    mine = shards[rank::processes]
    missing = [shard for shard in mine if _moments(job.folder / shard.file, header) is None]
    device = choose_device(job.runtime.device, rank)
    encoder.to(device, number_format(job.parameters.precision, device))
    _write_missing(job, encoder, header, missing, show=job.runtime.display if rank == 0 else False)
    files = [job.folder / shard.file for shard in mine]
    found = [(shard, sha256_file(file), _moments(file, header)) for shard, file in zip(mine, files, strict=True)]
    everyone = sorted((row for rows in gather(found) for row in rows), key=lambda row: row[0].number)
    if rank == 0:
        write_manifest(job.folder, _manifest(job, facts, everyone))


def _plan(job: LatentJob) -> list[_Shard]:
    """Returns the shards; none holds images of two splits."""
    size = job.parameters.shard_size
    spans = [
        (split, first, min(first + size, len(images.dataset)))
        for split, images in enumerate(job.images)
        for first in range(0, len(images.dataset), size)
    ]
    return [_Shard(number, *span) for number, span in enumerate(spans)]


def _facts(job: LatentJob, encoder: AnyEncoder) -> dict[str, Any]:
    """Returns what the manifest and the header of each shard say of all latents."""
    side = job.parameters.im_size // encoder.config.downscale
    kept = ("mean", "logvar") if job.parameters.keep == "posterior" else ("mean",)
    flipped = tuple(f"{name}_flipped" for name in kept) if job.parameters.flipped else ()
    return {
        "encoder": {
            "file": utf8(job.encoder.name),
            "sha256": sha256_file(job.encoder),
            "weights_sha256": weights_sha256(encoder),
            "config": asdict(encoder.config),
        },
        "downscale": encoder.config.downscale,
        "latent_channels": encoder.config.latent_channels,
        "im_size": job.parameters.im_size,
        "resize": f"{EvalTransform.resize_filter}, {EvalTransform.crop} crop",
        "shape": (encoder.config.latent_channels, side, side),
        "dtype": job.parameters.dtype,
        "precision": job.parameters.precision,
        "tensors": (*kept, *flipped, "label", "index"),
    }


def _origin(job: LatentJob, facts: dict[str, Any]) -> str:
    """Returns a hash of everything that decides the shards' content."""
    digest = hashlib.sha256(json.dumps([VERSION, facts, job.parameters.model_dump()]).encode())
    for images in job.images:
        digest.update(f"{images.split} {images.dataset.content} {images.classes}\0".encode())
        for number in range(len(images.dataset)):
            digest.update(utf8(images.dataset.path(number)).encode() + b"\0")
    return digest.hexdigest()


def _sweep(folder: Path, wanted: set[str]) -> None:
    """Removes the manifest, which must never describe other shards, half-written files, and shards of other passes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    leftovers = [path for pattern in LEFTOVERS for path in folder.glob(pattern) if path.is_file()]
    others = [path for path in folder.glob("latents-*.safetensors") if path.name not in wanted]
    for path in (*leftovers, *others):
        path.unlink()


def _moments(path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the sums in the header of a finished shard of this origin; None where there is no such shard."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[SHARD_HEADER])
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
    return header["moments"] if header.get("origin") == wanted["origin"] else None


class _Keyed(Dataset[Example]):
    """The images of all splits, by (place of the split, number)."""

    def __init__(self, images: tuple[LatentImages, ...]) -> None:
        self._images = images

    def __getitem__(self, key: tuple[int, int]) -> Example:
        split, number = key
        return self._images[split].dataset[number]


class _ShardBatches(Sampler[list[tuple[int, int]]]):
    """The keys of the batches of some shards, in order; made as they are needed, since there may be millions."""

    def __init__(self, shards: Sequence[_Shard], batch_size: int) -> None:
        self._shards, self._size = shards, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for shard in self._shards:
            for first in range(shard.first, shard.last, self._size):
                yield [(shard.split, number) for number in range(first, min(first + self._size, shard.last))]


def _batches(job: LatentJob, shards: Sequence[_Shard]) -> Iterator[dict[str, Any]]:
    """Yields the batches of all shards in one stream, so that workers start once and load ahead across shards."""
    # A generator of its own: without one, DataLoader would draw a number from torch's global random state.
    return iter(
        DataLoader(
            _Keyed(job.images),
            batch_sampler=_ShardBatches(shards, job.parameters.batch_size),
            num_workers=job.runtime.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )
    )


@torch.no_grad()
def _write_missing(
    job: LatentJob, encoder: AnyEncoder, header: dict[str, Any], shards: Sequence[_Shard], show: Show
) -> None:
    if not shards:
        return
    stream = _batches(job, shards)
    with bar("latents", sum(shard.last - shard.first for shard in shards), show) as advance:
        for shard in shards:
            parts: list[dict[str, Tensor]] = []
            sums = LatentAccumulator(encoder.config.latent_channels)
            done = shard.first
            while done < shard.last:
                parts.append(_encode(encoder, next(stream)["image"], job.parameters))
                sums.update(parts[-1]["mean"])
                done += len(parts[-1]["mean"])
                advance(len(parts[-1]["mean"]))
            _save(job, shard, header, {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, sums)


def _encode(encoder: AnyEncoder, x: Tensor, parameters: LatentsParameters) -> dict[str, Tensor]:
    """(B, 3, S, S) -> the tensors of a shard, on the CPU."""
    weight = next(encoder.parameters())
    x = x.to(weight.device, weight.dtype, non_blocking=True)
    found: dict[str, Tensor] = {}
    for suffix, image in (("", x), *((("_flipped", x.flip(3)),) if parameters.flipped else ())):
        posterior = encoder(image)
        found[f"mean{suffix}"] = posterior.mean
        if parameters.keep == "posterior":
            found[f"logvar{suffix}"] = posterior.logvar
    dtype = DTYPES[parameters.dtype]
    return {name: tensor.to("cpu", dtype).contiguous() for name, tensor in found.items()}


def _save(
    job: LatentJob, shard: _Shard, header: dict[str, Any], tensors: dict[str, Tensor], sums: LatentAccumulator
) -> None:
    images, numbers = job.images[shard.split], range(shard.first, shard.last)
    tensors["label"] = torch.tensor(images.labels(numbers))
    tensors["index"] = torch.tensor([int(images.rows[number]) for number in numbers])
    own = {
        "split": images.split,
        "first": shard.first,
        "moments": moments_of(sums),
        "paths": [utf8(images.dataset.path(number)) for number in numbers],
    }
    with atomic_write(job.folder / shard.file) as temporary:
        _write(temporary, tensors, header | own)


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> None:
    """Writes one safetensors file; a full disk is an OSError like everywhere else."""
    try:
        # one entry: safetensors writes several in no fixed order, and equal content must be equal bytes
        save_file(dict(tensors), path, {SHARD_HEADER: json.dumps(header, ensure_ascii=False)})
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def _manifest(job: LatentJob, facts: dict[str, Any], found: Sequence[tuple[_Shard, str, Any]]) -> Manifest:
    sums = {images.split: LatentAccumulator(facts["latent_channels"]) for images in job.images}
    records = []
    for shard, sha256, moments in found:
        split, count = job.images[shard.split].split, shard.last - shard.first
        sums[split].merge(accumulator_of(moments))  # in the order of the shards, whoever wrote them
        records.append(ShardRecord(file=shard.file, split=split, first=shard.first, count=count, sha256=sha256))
    return Manifest(
        **facts,
        classes=job.images[0].classes,
        moments={split: moments_of(of_split) for split, of_split in sums.items()},
        shards=tuple(records),
    )
