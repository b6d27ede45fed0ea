"""What an encoder is made of, and how its published name `f<F>c<C>` spells it."""

import re
from dataclasses import dataclass

SDVAE = "sdvae"


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape of a convolutional encoder; the defaults are the published `f8c4`.

    Args:
        latent_channels: C, channels of the latent.
        base_channels: width of the first level.
        multipliers: width of each level as a multiple of `base_channels`; all but the last level halve the side.
        resnets_per_level: residual blocks in each level.
        patch_size: pixels per side folded into channels before the first convolution (1 in published encoders).
        norm_groups: groups of every GroupNorm; must divide every width.
        attention: whether the middle holds its single-head self-attention.

    Raises:
        ValueError: a value is not positive, or a width is not a multiple of `norm_groups`.
    """

    latent_channels: int = 4
    base_channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    resnets_per_level: int = 2
    patch_size: int = 1
    norm_groups: int = 32
    attention: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        sizes = {
            "latent_channels": self.latent_channels,
            "base_channels": self.base_channels,
            "resnets_per_level": self.resnets_per_level,
            "patch_size": self.patch_size,
            "norm_groups": self.norm_groups,
        }
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} to be a positive integer, got {value!r}")
        if not self.multipliers or any(not isinstance(m, int) or m < 1 for m in self.multipliers):
            raise ValueError(f"expected multipliers to be positive integers, got {self.multipliers!r}")
        for width in self.widths:
            if width % self.norm_groups:
                raise ValueError(
                    f"expected every width to be a multiple of norm_groups={self.norm_groups}, got {self.widths}: "
                    "change base_channels, multipliers or norm_groups"
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full resolution down."""
        return tuple(self.base_channels * m for m in self.multipliers)

    @property
    def downscale(self) -> int:
        """F: pixels per latent cell and side."""
        return self.patch_size * 2 ** (len(self.multipliers) - 1)

    @property
    def name(self) -> str:
        """`f<F>c<C>`, the field's way to name a latent space."""
        return f"f{self.downscale}c{self.latent_channels}"


def encoder_config(name: str) -> EncoderConfig:
    """Returns the published encoder called `f<F>c<C>`, or `sdvae` (SD-VAE's encoder, which is an f8c4).

    Args:
        name: F is a power of two from 2 up (down-scale per side), C at least 1 (latent channels).

    Raises:
        ValueError: the name is not of that form.
    """
    if name == SDVAE:
        name = "f8c4"
    match = re.fullmatch(r"f(\d{1,4})c(\d{1,5})", name)
    downscale, channels = (int(match[1]), int(match[2])) if match else (0, 0)
    if downscale < 2 or downscale & (downscale - 1) or channels < 1:
        raise ValueError(
            f"expected an encoder named f<F>c<C> with F a power of two from 2 up and C at least 1 "
            f"(f8c4, f16c32, ...), or sdvae; got {name!r}"
        )
    levels = downscale.bit_length()
    return EncoderConfig(latent_channels=channels, multipliers=(1, 2, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4)[:levels])
