"""The speed that each evaluated quality costs: one timing per model and number of steps."""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssdd.autoencoder import SSDD
from ssdd.benchmarking.timing import time_sides


def measure_quality(models: dict[str, Path], metrics: Any, im_size: int, rounds: int, device: torch.device) -> Any:
    """Adds to each row of the metrics the speed of that model with that number of steps; reference rows have none.

    Args:
        models: checkpoints by the name in the column `model`; all with latents of one shape.
        metrics: table with the columns `model` and `steps`.
        im_size: side of the images, in pixels.
        rounds: of the timing.
        device: of the decoders.

    Returns:
        The table with the columns `seconds` (median, for one image), its quartiles, and `images_per_second`.
    """
    decoders = {name: SSDD.from_pretrained(file).decoder.to(device) for name, file in models.items()}
    config = next(iter(decoders.values())).config
    cells = im_size // config.downscale
    # Speed does not depend on the content, so any latent will do.
    z = torch.randn(1, config.latent_channels, cells, cells).to(device)
    metrics = metrics[metrics["model"].isin(list(models))]
    pairs = [(row["model"], int(row["steps"])) for _, row in metrics.iterrows()]
    sides = {f"{model} {steps}": partial(decoders[model].decode, z, steps) for model, steps in pairs}
    timings = time_sides(sides, next(iter(sides)), rounds, device)
    found = [timing.summary() for timing in timings.values()]
    return metrics.assign(
        seconds=[figures["seconds"] for figures in found],
        seconds_q25=[figures["seconds_q25"] for figures in found],
        seconds_q75=[figures["seconds_q75"] for figures in found],
        images_per_second=[1 / figures["seconds"] for figures in found],
    )
