"""When the flow is looked at: times drawn in training, and the grid of the sampler."""

import torch
from torch import Tensor

GRID_POWER = 2.0


def sample_training_times(
    batch: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Draws t = sigmoid(n), n ~ N(mean, std): (B,) in (0, 1), float32.

    Logit-normal times: Esser et al., "Scaling rectified flow transformers" (2024).
    """
    source = device if generator is None else generator.device
    normal = torch.randn(batch, generator=generator, device=source) * std + mean
    return torch.sigmoid(normal).to(device)


def sampling_grid(steps: int, power: float = GRID_POWER) -> list[float]:
    """Times t_i = (1 - i / K)^power, i = 0..K, from 1 (noise) to 0 (clean), finer towards the clean end.

    Raises:
        ValueError: steps is not an integer from 1 up.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"expected steps to be an integer from 1 up, got {steps!r}")
    return [(1 - i / steps) ** power for i in range(steps + 1)]
