"""The flow-matching path. The direction of time is defined here and nowhere else.

    t = 0 is the clean image x, t = 1 is pure noise eps:    x_t = (1 - t) x + t eps
    The network predicts minus the path's derivative:       v = x - eps
    From any point, following v for t leads to the image:   x = x_t + t v

Source: Lipman et al., "Flow matching for generative modeling" (2023), with the linear path.
"""

# B batch, H W pixels; x, eps, x_t, v (B, 3, H, W); t (B,) or (1,) in [0, 1]

from collections.abc import Sequence

import torch
from torch import Tensor

SMALLEST_TIME = 0.05  # the least divisor of a clean-image prediction: near t = 0, 1 / t would magnify its error


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Point on the path: x_t = (1 - t) x + t eps."""
    t = per_image(t, x)
    return (1 - t) * x + t * noise


def target_velocity(x: Tensor, noise: Tensor) -> Tensor:
    """The velocity that the network learns to predict: v = x - eps."""
    return x - noise


def predict_clean(x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Estimate of the clean image: x_t + t v."""
    return x_t + per_image(t, x_t) * v


def velocity_from_clean(x_t: Tensor, clean: Tensor, t: Tensor) -> Tensor:
    """Velocity that leads from x_t to a predicted clean image: (clean - x_t) / max(t, 0.05)."""
    return (clean - x_t) / per_image(t, x_t).clamp(min=SMALLEST_TIME)


def euler_step(x_t: Tensor, v: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
    """Moves from time t to an earlier time s < t: x_s = x_t + (t - s) v."""
    return x_t + (t - s) * v


def per_image(t: Tensor, like: Tensor) -> Tensor:
    """Times (B,) or (1,) -> (B or 1, 1, 1, 1), in the dtype of `like`.

    Raises:
        ValueError: there is neither one time nor one per image.
    """
    if t.ndim != 1 or t.shape[0] not in (1, like.shape[0]):
        raise ValueError(
            f"expected one time for all images or one each, of shape (1,) or ({like.shape[0]},), got {tuple(t.shape)}"
        )
    return t.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def draw_noise(
    shape: tuple[int, ...],
    like: Tensor,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Draws eps ~ N(0, 1) in float32 at least, on the device of `like`.

    Args:
        shape: (B, 3, H, W).
        like: a tensor on the device of the result; where it is float64, so is the result.
        generator: one for the batch; or one per image, which makes each image's noise independent of the batch.

    Raises:
        ValueError: the generator is none, or their number is not B.
    """
    # In float32 for narrower dtypes too: half precision then gets the same noise, rounded.
    dtype = torch.promote_types(like.dtype, torch.float32)
    if generator is None or isinstance(generator, torch.Generator):
        device = like.device if generator is None else generator.device
        return torch.randn(shape, generator=generator, device=device, dtype=dtype).to(like.device)
    if not isinstance(generator, Sequence) or not all(isinstance(g, torch.Generator) for g in generator):
        raise ValueError(
            f"expected a torch.Generator or one per image, got {type(generator).__name__}: "
            "use torch.Generator().manual_seed(seed)"
        )
    if len(generator) != shape[0]:
        raise ValueError(
            f"expected one generator per image, got {len(generator)} for a batch of {shape[0]}: "
            "give as many as images, or one for all"
        )
    draws = [torch.randn(shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator]
    return torch.stack([draw.to(like.device) for draw in draws])
