"""The batches of a whole run, epoch after epoch, from any step on."""

from collections.abc import Generator, Mapping
from typing import Any

import torch

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import make_loader
from ssdd.data.step_sampler import StepSampler

Batch = dict[str, Any]
"""`image` (B, 3, S, S) in [-1, 1], `index` (B,) int64, `path` list of B names; more where a data set adds more."""


def run_batches(
    dataset: ImageDataset, sampler: StepSampler, first_step: int, last_step: int, workers: int
) -> Generator[Batch, None, None]:
    """Yields this process's batch of every step in [first_step, last_step), counted over the whole run.

    Close it (`contextlib.closing`) to end the loader's workers at once.
    """
    loader = make_loader(dataset, sampler, workers=workers)
    per_epoch = sampler.steps_per_epoch
    try:
        for epoch in range(first_step // per_epoch, -(-last_step // per_epoch)):
            sampler.set_position(epoch, max(first_step - epoch * per_epoch, 0))
            yield from loader
    finally:
        del loader


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
