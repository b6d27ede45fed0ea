"""Statistics of the latents of the held-out images."""

from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters, RuntimeConfig, StatisticsParameters


def compute_latent_statistics(
    encoder: Path, index: Any, data: DataParameters, z_stats: StatisticsParameters, runtime: RuntimeConfig
) -> dict[str, object]:
    """Computes mean and standard deviation of the posterior modes, per channel and overall.

    Args:
        encoder: its checkpoint.
        index: of the images.
        data: the images' source.
        z_stats: resolution, batch, limit.
        runtime: device, processes, workers.

    Returns:
        what `LatentStatistics.from_dict` reads.
    """
    from ssdd.data.image_sets import held_out_images
    from ssdd.evaluation.latent_statistics import latent_statistics
    from ssdd.processes import use_threads

    use_threads(runtime)
    dataset = held_out_images(index, data, z_stats.im_size, z_stats.limit)
    found = latent_statistics(
        encoder,
        dataset,
        z_stats.batch_size,
        runtime.workers,
        runtime.device,
        runtime.display,
        runtime.processes,
    )
    return found.to_dict()
