"""Statistics of an encoder's latents over a data set, batch by batch, in one process or many with the same bits."""

from itertools import chain, zip_longest
from pathlib import Path

import torch

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.encoders import AnyEncoder, load_encoder
from ssdd.processes import choose_device, gather_everywhere, join_group, launch
from ssdd.progress import Show
from ssdd.upscaling import shrink
from ssdd_encoder import LatentAccumulator, LatentStatistics


def latent_statistics(
    checkpoint: Path,
    dataset: ImageDataset,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "cpu",
    progress: Show = True,
    processes: int = 1,
) -> LatentStatistics:
    """Mean and unbiased standard deviation of the posterior modes, in float64; memory is that of a batch.

    Args:
        checkpoint: of the encoder, in any layout that `load_encoder` reads.
        dataset: images with an `EvalTransform`.
        batch_size: images at a time per process.
        workers: loader processes of each process.
        device: name of the encoder's, see `choose_device`.
        progress: the display of the progress, on rank 0.
        processes: how many share the images; with as many threads each, the result is that of one, bit for bit.

    Raises:
        ValueError: the checkpoint holds no encoder, an image cannot be read, or a latent is not finite.
    """
    return launch(_load_and_measure, processes, checkpoint, dataset, batch_size, workers, device, progress)


def _load_and_measure(
    checkpoint: Path, dataset: ImageDataset, batch_size: int, workers: int, device: str, progress: Show
) -> LatentStatistics:
    encoder = load_encoder(checkpoint).to(choose_device(device, join_group()[0]))
    return statistics_of(encoder, dataset, batch_size, workers, "latent statistics", progress)


@torch.no_grad()
def statistics_of(
    encoder: AnyEncoder,
    dataset: ImageDataset,
    batch_size: int,
    workers: int = 0,
    title: str = "",
    show: Show = False,
    upscale: int = 1,
) -> LatentStatistics:
    """Does the same in a process of a group, with an encoder on its device: the processes share the images.

    Args:
        encoder: of this process.
        dataset, batch_size, workers: see `latent_statistics`.
        title, show: of the progress, on rank 0.
        upscale: the encoder gets copies of the images that are so many times smaller.
    """
    rank, processes = join_group()
    weight = next(encoder.parameters())
    mine: list[LatentAccumulator] = []  # one for each batch: a few numbers, which are added up in the images' order
    for batch in batches(dataset, batch_size, workers, rank, processes, title, show if rank == 0 else False):
        mine.append(LatentAccumulator(encoder.config.latent_channels))
        x = shrink(batch["image"].to(weight.device, weight.dtype), upscale)
        mine[-1].update(encoder(x).mode())
    together = LatentAccumulator(encoder.config.latent_channels)
    for part in chain.from_iterable(zip_longest(*gather_everywhere(mine))):  # the ranks take the batches in turn
        if part is not None:
            together.merge(part)
    return together.compute()
