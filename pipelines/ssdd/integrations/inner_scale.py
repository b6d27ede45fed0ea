"""Normalisation of latents inside an autoencoder, for pipelines that know of no mean: `DiTPipeline` is one."""

# B batch, C latent channels, h w latent cells

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InnerScale:
    """Mean and deviation of each channel; without them, latents stay as they are.

    Args:
        mean, std: C numbers each, or None.
    """

    mean: list[float] | None = None
    std: list[float] | None = None

    def checked(self, channels: int, outer: tuple[object, ...]) -> "InnerScale":
        """Returns it, unless it is incomplete, or pipelines would apply another scale beside it.

        Args:
            channels: C.
            outer: `scaling_factor`, `shift_factor`, `latents_mean` and `latents_std`.

        Raises:
            ValueError: see above.
        """
        if self.mean is None and self.std is None:
            return self
        lengths = [len(values or ()) for values in (self.mean, self.std)]
        if lengths != [channels] * 2 or outer != (1.0, 0.0, None, None):
            raise ValueError(
                f"expected inner_mean and inner_std of {channels} channels, and no other scale or shift, got "
                f"{lengths[0]} and {lengths[1]} numbers beside {outer}: load the model with normalization='none'"
            )
        return self

    def moments(self, mean: Tensor, logvar: Tensor) -> Tensor:
        """Moments of the encoder's latents -> (B, 2 C, h, w) of the latents that pipelines see."""
        if self.mean is not None:
            own, std = self._per_channel(mean)
            mean, logvar = (mean - own) / std, logvar - 2 * std.log()
        return torch.cat([mean, logvar], dim=1)

    def latents(self, z: Tensor) -> Tensor:
        """Latents that pipelines see (B, C, h, w) -> latents as the decoder takes them."""
        if self.mean is None:
            return z
        mean, std = self._per_channel(z)
        return z * std + mean

    def _per_channel(self, like: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.tensor([self.mean, self.std], device=like.device, dtype=like.dtype)
        mean, std = values[:, None, :, None, None]
        return mean, std
