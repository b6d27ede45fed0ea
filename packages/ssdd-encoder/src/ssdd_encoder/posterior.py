"""The diagonal Gaussian that an encoder predicts for each image."""

# B batch, C latent channels, h w latent cells

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True)
class Posterior:
    """q(z | x) = N(mean, exp(logvar)), element by element.

    Args:
        mean: (B, C, h, w).
        logvar: (B, C, h, w), natural logarithm of the variance, within [-30, 20].
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> "Posterior":
        """Splits (B, 2 C, h, w) into mean and logvar, and clamps the latter to [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    def mode(self) -> Tensor:
        """The most likely latent, (B, C, h, w): the mean."""
        return self.mean

    def sample(
        self, generator: torch.Generator | Sequence[torch.Generator] | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """Draws z = mean + exp(logvar / 2) n with n ~ N(0, 1), (B, C, h, w).

        Args:
            generator: one for the batch, or one per image, which makes each draw independent of the batch.
            noise: n itself, (B, C, h, w), instead of a generator; z is then computed in float32 at least, because a
                draw that training adds to a half-precision mean would lose its last digits.

        Raises:
            ValueError: the generator is of another type, there are not B of them, there is noise as well, or the
                noise has another shape.
        """
        if noise is None:
            return self.mean + torch.exp(0.5 * self.logvar) * _standard_normal(self.mean, generator)
        if generator is not None:
            raise ValueError("expected a generator or noise, got both: leave one out")
        if noise.shape != self.mean.shape:
            raise ValueError(
                f"expected noise of the mean's shape {tuple(self.mean.shape)}, got {tuple(noise.shape)}: "
                "draw one number for each element of the latent"
            )
        dtype = torch.promote_types(self.mean.dtype, torch.float32)
        return self.mean.to(dtype) + torch.exp(0.5 * self.logvar.to(dtype)) * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, 1)) in nats, summed over C, h and w: (B,), in float32 at least."""
        mean, logvar = self.mean, self.logvar
        if mean.dtype in (torch.float16, torch.bfloat16):
            mean, logvar = mean.float(), logvar.float()
        return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=(1, 2, 3))


def _standard_normal(like: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
    # Drawn in float32 whatever the dtype: half precision sees the same noise, rounded.
    dtype = torch.promote_types(like.dtype, torch.float32)
    if generator is None or isinstance(generator, torch.Generator):
        device = like.device if generator is None else generator.device
        return torch.randn(like.shape, generator=generator, device=device, dtype=dtype).to(like)
    if not isinstance(generator, Sequence) or not all(isinstance(g, torch.Generator) for g in generator):
        raise ValueError(
            f"expected a torch.Generator or one per image, got {type(generator).__name__}: "
            "use torch.Generator().manual_seed(seed)"
        )
    if len(generator) != like.shape[0]:
        raise ValueError(
            f"expected one generator per image, got {len(generator)} for a batch of {like.shape[0]}: "
            "give as many as images, or one for all"
        )
    draws = [torch.randn(like.shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator]
    return torch.stack([draw.to(like) for draw in draws])
