"""Statistics of an encoder's latents over a data set, image batch by image batch."""

from pathlib import Path

import torch

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.encoders import load_encoder
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
    """Mean and unbiased standard deviation of the posterior modes, in float64 and constant memory.

    Args:
        checkpoint: of the encoder, in any layout that `load_encoder` reads.
        dataset: images with an `EvalTransform`.
        batch_size: images at a time.
        workers: loader processes.
        device: of the encoder.
        progress: the display of the progress.

    Raises:
        ValueError: the checkpoint holds no encoder, an image cannot be read, or a latent is not finite.
    """
    encoder = load_encoder(checkpoint).to(device)
    accumulator = LatentAccumulator(encoder.config.latent_channels)
    for batch in batches(dataset, batch_size, workers, title="latent statistics", show=progress):
        accumulator.update(encoder(batch["image"].to(device)).mode())
    return accumulator.compute()
