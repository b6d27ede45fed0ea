"""Loading of batches, in this process or in workers, with equal results."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ssdd.data.image_dataset import Example, ImageDataset
from ssdd.data.step_sampler import StepSampler
from ssdd.progress import Show, bar


def make_loader(
    dataset: ImageDataset, sampler: StepSampler, *, workers: int = 0, prefetch: int = 2
) -> DataLoader[Example]:
    """Returns a loader over the rest of one epoch; call `sampler.set_position` before each `iter(loader)`.

    Batches are dicts: `image` (B, 3, S, S) float32 in [-1, 1], `index` (B,) int64, `path` list of B names.
    They do not depend on `workers`, and no global random state is read or changed. The sampler already shares
    the images among processes: do not let accelerate shard this loader again.

    Args:
        dataset: the images.
        sampler: made for `len(dataset)` images.
        workers: worker processes, kept from epoch to epoch; 0 loads in this process.
        prefetch: batches that each worker prepares ahead.

    Raises:
        ValueError: the sampler is for another number of images, or a number is out of range. Iterating raises it too
            if an image cannot be loaded; the message names the image, also from a worker.
    """
    if sampler.length != len(dataset):
        raise ValueError(f"expected a sampler for the data set's {len(dataset)} images, got one for {sampler.length}")
    if workers < 0 or prefetch < 1:
        raise ValueError(f"expected workers of at least 0 and prefetch of at least 1, got {workers} and {prefetch}")
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=prefetch if workers > 0 else None,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # by default every iter() draws from torch's global generator
    )


def batches(
    dataset: ImageDataset,
    batch_size: int,
    workers: int = 0,
    rank: int = 0,
    processes: int = 1,
    title: str = "",
    show: Show = False,
) -> Iterator[dict[str, Any]]:
    """Yields the batches of one pass over this process's share of the images, in order, each image once.

    Every batch has the same size with one process or many, except the last ones. A network rounds its last digit by the
    shape of its batch, so one process or many give the same bits (with as many threads each).

    Args:
        dataset: images with an `EvalTransform`.
        batch_size: images at a time per process.
        workers: loader processes.
        rank: this process.
        processes: how many share the images.
        title, show: of the progress.
    """
    sampler = StepSampler(
        len(dataset), batch_size * processes, shuffle=False, drop_last=False, rank=rank, world_size=processes
    )
    with bar(title, len(dataset), show) as advance:
        for batch in make_loader(dataset, sampler, workers=workers):
            yield batch
            advance(len(batch["index"]) * processes)


def close_loader(loader: DataLoader[Example]) -> None:
    """Ends a loader's worker processes now; a new iteration starts new ones.

    Without this call the workers end when the loader is freed. An exception's traceback can keep the loader in a
    reference cycle: the workers then end late, and each takes five seconds.
    """
    iterator, loader._iterator = loader._iterator, None
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        iterator._shutdown_workers()
