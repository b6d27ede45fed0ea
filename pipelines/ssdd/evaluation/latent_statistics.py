"""Statistics of an encoder's latents over a data set, image batch by image batch."""

from itertools import chain, zip_longest
from pathlib import Path

import torch

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.encoders import load_encoder
from ssdd.parameters import RuntimeConfig, StatisticsParameters
from ssdd.processes import choose_device, gather_everywhere, join_group, launch, use_threads
from ssdd.progress import Show
from ssdd_encoder import LatentAccumulator, LatentStatistics


@torch.no_grad()
def latent_statistics(
    checkpoint: Path,
    dataset: ImageDataset,
    batch_size: int = 16,
    workers: int = 0,
    device: torch.device | str = "cpu",
    progress: Show = True,
) -> LatentStatistics:
    """Mean and unbiased standard deviation of the posterior modes, in float64 and in memory for one batch.

    The processes of a group share the images, and each returns the result of all: bit for bit that of one process.

    Args:
        checkpoint: of the encoder, in any layout that `load_encoder` reads.
        dataset: images with an `EvalTransform`.
        batch_size: images at a time.
        workers: loader processes.
        device: of the encoder.
        progress: the display of the progress, on rank 0.

    Raises:
        ValueError: the checkpoint holds no encoder, an image cannot be read, or a latent is not finite.
    """
    encoder = load_encoder(checkpoint).to(device)
    rank, processes = join_group()
    show = progress if rank == 0 else False
    mine: list[LatentAccumulator] = []
    for batch in batches(dataset, batch_size, workers, rank, processes, title="latent statistics", show=show):
        mine.append(LatentAccumulator(encoder.config.latent_channels))
        mine[-1].update(encoder(batch["image"].to(device)).mode())
    whole = LatentAccumulator(encoder.config.latent_channels)
    # Ranks take the batches in turn. Added up in their order, the sums have the same last digits as in one process.
    for part in chain.from_iterable(zip_longest(*gather_everywhere(mine))):
        if part is not None:
            whole.merge(part)
    return whole.compute()


def shared_latent_statistics(
    checkpoint: Path, dataset: ImageDataset, z_stats: StatisticsParameters, runtime: RuntimeConfig
) -> LatentStatistics:
    """Computes `latent_statistics` in `runtime.processes` processes, or in those of a launcher.

    Args:
        checkpoint, dataset: see there.
        z_stats: for the size of a batch.
        runtime: device, processes, workers, display.
    """
    use_threads(runtime)
    return launch(_share, runtime.processes, checkpoint, dataset, z_stats.batch_size, runtime)


def _share(checkpoint: Path, dataset: ImageDataset, batch_size: int, runtime: RuntimeConfig) -> LatentStatistics:
    device = choose_device(runtime.device, join_group()[0])
    return latent_statistics(checkpoint, dataset, batch_size, runtime.workers, device, runtime.display)
