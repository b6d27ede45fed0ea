"""The batches of a whole run, epoch after epoch, from any step on, and the pieces that they are cut into."""

from collections.abc import Generator, Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

from ssdd.data.loader import make_loader
from ssdd.data.step_sampler import StepSampler
from ssdd.parameters import LoopParameters

Batch = dict[str, Any]
"""`image` (B, 3, S, S) in [-1, 1], `index` (B,) int64, `path` list of B names; some data sets add entries or have no
image. Whoever cuts or moves a batch treats all entries alike."""


def run_batches(
    images: Dataset[Any], sampler: StepSampler, first_step: int, last_step: int, workers: int
) -> Generator[Batch, None, None]:
    """Yields this process's batch of every step in [first_step, last_step), counted over the whole run.

    Close it (`contextlib.closing`) to end the loader's workers at once.
    """
    loader = make_loader(images, sampler, workers=workers)  # type: ignore[arg-type]  # a test's data set is not ours
    per_epoch = sampler.steps_per_epoch
    try:
        for epoch in range(first_step // per_epoch, -(-last_step // per_epoch)):
            sampler.set_position(epoch, max(first_step - epoch * per_epoch, 0))
            yield from loader
    finally:
        del loader  # its workers end with it; a traceback may hold this frame, and the workers with it, for long


def to_device(batch: Batch, device: torch.device, channels_last: bool) -> Batch:
    """Moves the tensors of a batch; images (4 dims) get the memory format of the networks."""
    moved: Batch = {}
    for name, value in batch.items():
        if isinstance(value, torch.Tensor):
            layout = torch.channels_last if channels_last and value.ndim == 4 else torch.preserve_format
            value = value.to(device, non_blocking=True, memory_format=layout)
        moved[name] = value
    return moved


def split(batch: Mapping[str, Any], pieces: int) -> list[Batch]:
    """Cuts a batch into equal pieces, in order."""
    size = len(batch["index"]) // pieces
    return [
        {name: value[number * size : (number + 1) * size] for name, value in batch.items()} for number in range(pieces)
    ]


def pieces_per_process(stage: LoopParameters, processes: int) -> int:
    """Returns how many images one process puts through the network at a time.

    Raises:
        ValueError: the batch cannot be cut into equal pieces.
    """
    parts = processes * stage.accumulation
    if stage.batch_size % parts:
        raise ValueError(
            f"expected batch_size to be a multiple of processes x accumulation = {processes} x "
            f"{stage.accumulation} = {parts}, got {stage.batch_size}: change batch_size or accumulation"
        )
    return stage.batch_size // parts
