"""Times of the flow: those drawn in training, and the grid of the sampler."""

from numbers import Integral

import torch
from torch import Tensor

GRID_POWER = 2.0
MAX_STEPS = 10_000


def training_times(noise: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Makes training times of standard normal draws: t = sigmoid(std n + mean), in (0, 1), of the shape of n.

    Logit-normal times: Esser et al., "Scaling rectified flow transformers" (2024).

    Args:
        noise: n ~ N(0, 1), any shape.
        mean: of the logit of t.
        std: of the logit of t.
    """
    return torch.sigmoid(noise * std + mean)


def sample_training_times(
    batch: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Draws logit-normal times (B,) in (0, 1), float32; see `training_times`."""
    source = device if generator is None else generator.device
    return training_times(torch.randn(batch, generator=generator, device=source), mean, std).to(device)


def sampling_grid(steps: int, power: float = GRID_POWER) -> list[float]:
    """Returns `sampling_times` as numbers."""
    return sampling_times(steps, power).tolist()


def sampling_times(steps: int, power: float = GRID_POWER) -> Tensor:
    """Times t_i = (1 - i / K)^power, i = 0..K, from 1 (noise) to 0 (clean), finer towards the clean end: (K + 1,).

    Evaluated in float32, as the published system does: a network that is called with 1000 t sees the difference.

    Raises:
        ValueError: steps is not an integer from 1 to 10,000, or the power is not above 0.
    """
    check_steps(steps)
    if not power > 0:
        raise ValueError(f"expected power to be above 0, got {power!r}: 2 is published, 1 is an even grid")
    return torch.linspace(1, 0, int(steps) + 1, dtype=torch.float32, device="cpu") ** power


def check_steps(steps: int) -> None:
    """Raises ValueError unless steps is an integer from 1 to 10,000."""
    if isinstance(steps, bool) or not isinstance(steps, Integral) or not 1 <= steps <= MAX_STEPS:
        raise ValueError(
            f"expected steps to be an integer from 1 to {MAX_STEPS:,}, got {steps!r}: "
            "1 suits distilled decoders, 8 others"
        )
