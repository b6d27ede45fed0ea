"""Statistics of an encoder's latents over a data set, batch by batch, in one process or many with the same bits."""

from itertools import chain, zip_longest
from pathlib import Path

import torch

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.encoders import load_encoder
from ssdd.processes import choose_device, gather, join_group, launch
from ssdd_encoder import LatentAccumulator, LatentStatistics


def latent_statistics(
    checkpoint: Path,
    dataset: ImageDataset,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "cpu",
    progress: bool = True,
    processes: int = 1,
) -> LatentStatistics | None:
    """Mean and unbiased standard deviation of the posterior modes, in float64; memory is that of a batch.

    Args:
        checkpoint: of the encoder, in any layout that `load_encoder` reads.
        dataset: images with an `EvalTransform`.
        batch_size: images at a time per process.
        workers: loader processes of each process.
        device: name of the encoder's, see `choose_device`.
        progress: shows a bar.
        processes: how many share the images; with as many threads each, the result is that of one, bit for bit.

    Returns:
        the statistics; None on all ranks of torchrun but rank 0.

    Raises:
        ValueError: the checkpoint holds no encoder, an image cannot be read, or a latent is not finite.
    """
    return launch(_statistics, processes, checkpoint, dataset, batch_size, workers, device, progress)


@torch.no_grad()
def _statistics(
    checkpoint: Path, dataset: ImageDataset, batch_size: int, workers: int, device: str, progress: bool
) -> LatentStatistics | None:
    rank, processes = join_group()
    place = choose_device(device, rank)
    encoder = load_encoder(checkpoint).to(place)
    mine: list[LatentAccumulator] = []  # one for each batch: a few numbers, which rank 0 adds up in the images' order
    title = "latent statistics" if progress and rank == 0 else None
    for batch in batches(dataset, batch_size, workers, rank, processes, title):
        mine.append(LatentAccumulator(encoder.config.latent_channels))
        mine[-1].update(encoder(batch["image"].to(place)).mode())
    everyone = gather(mine)
    if rank:
        return None
    together = LatentAccumulator(encoder.config.latent_channels)
    for part in chain.from_iterable(zip_longest(*everyone)):  # the ranks take the batches in turn
        if part is not None:
            together.merge(part)
    return together.compute()
