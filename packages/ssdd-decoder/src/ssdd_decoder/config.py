"""What a decoder is made of, and the named sizes."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

Prediction = Literal["velocity", "sample"]
LIMITS = {"width": 65_536, "levels": 12, "transformer_blocks": 512, "heads": 256, "resnets_per_level": 64}


def _positive(name: str, value: object, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**31:
        raise ValueError(f"expected {name} to be an integer from {least} up, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder.

    Args:
        base_channels: width that the multipliers multiply.
        multipliers: one per level, from full resolution down; every level but the last halves the side.
        transformer_blocks: blocks at the lowest resolution.
        heads: attention heads; by default one per 64 channels, between 4 and 16.
        latent_channels: C, channels of the latent that it decodes.
        downscale: F, pixels per latent cell and side.
        resnets_per_level: residual blocks of each level on the way down; one more on the way up.
        patch_size: pixels per side folded into channels (pixel-unshuffle) before the first convolution and unfolded
            after the last; 1 in the published sizes.
        norm_groups: groups of every GroupNorm; widths are rounded up to a multiple of it.
        prediction: what the last convolution gives: the velocity (the published sizes), or the clean image, from
            which the velocity follows. At small training budgets the latter learns much faster.

    Raises:
        ValueError: a value is out of range, or the heads do not divide the lowest level's width.
    """

    base_channels: int
    multipliers: tuple[int, ...]
    transformer_blocks: int
    heads: int | None = None
    latent_channels: int = 4
    downscale: int = 8
    resnets_per_level: int = 2
    patch_size: int = 1
    norm_groups: int = 32
    prediction: Prediction = "velocity"

    def __post_init__(self) -> None:
        object.__setattr__(self, "multipliers", tuple(self.multipliers))
        for name in ("base_channels", "latent_channels", "downscale", "resnets_per_level", "patch_size", "norm_groups"):
            _positive(name, getattr(self, name))
        _positive("transformer_blocks", self.transformer_blocks, least=0)
        for multiplier in self.multipliers:
            _positive("every multiplier", multiplier)
        if self.heads is not None:
            _positive("heads", self.heads)
        if self.prediction not in get_args(Prediction):
            raise ValueError(f"expected prediction to be one of {get_args(Prediction)}, got {self.prediction!r}")
        if not 1 <= len(self.multipliers) <= LIMITS["levels"]:
            raise ValueError(f"expected 1 to {LIMITS['levels']} multipliers, got {len(self.multipliers)}")
        sizes = {"width": max(*self.widths, self.latent_channels), "heads": self.attention_heads}
        sizes |= {name: getattr(self, name) for name in ("transformer_blocks", "resnets_per_level")}
        for name, size in sizes.items():
            if size > LIMITS[name]:
                raise ValueError(f"expected {name} to be at most {LIMITS[name]}, got {size}")
        if self.widths[-1] % self.attention_heads:
            raise ValueError(
                f"expected heads to divide the lowest level's width {self.widths[-1]}, got {self.attention_heads}"
            )
        if self.widths[0] % 2:
            raise ValueError(f"expected an even width of the first level, got {self.widths[0]}")
        if self.downscale % self.patch_size:
            raise ValueError(f"expected patch_size to divide downscale={self.downscale}, got {self.patch_size}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full resolution down."""
        groups = self.norm_groups
        return tuple(-(-self.base_channels * m // groups) * groups for m in self.multipliers)

    @property
    def attention_heads(self) -> int:
        """Heads of each attention."""
        return self.heads if self.heads is not None else min(16, max(4, self.widths[-1] // 64))


SIZES = {
    "debug": DecoderConfig(
        base_channels=16, multipliers=(1, 2), transformer_blocks=2, heads=2, resnets_per_level=1, norm_groups=8
    ),
    "quickstart": DecoderConfig(
        base_channels=48,
        multipliers=(1, 2),
        transformer_blocks=2,
        resnets_per_level=1,
        patch_size=4,
        norm_groups=16,
        prediction="sample",
    ),
    "XS": DecoderConfig(base_channels=32, multipliers=(1, 2, 3, 3), transformer_blocks=8),
    "S": DecoderConfig(base_channels=48, multipliers=(1, 2, 3, 3), transformer_blocks=8),
    "B": DecoderConfig(base_channels=64, multipliers=(1, 2, 3, 3), transformer_blocks=10),
    "M": DecoderConfig(base_channels=96, multipliers=(1, 2, 3, 3), transformer_blocks=12),
    "L": DecoderConfig(base_channels=96, multipliers=(1, 2, 4, 4), transformer_blocks=16),
    "XL": DecoderConfig(base_channels=128, multipliers=(1, 2, 4, 4), transformer_blocks=16),
    "H": DecoderConfig(base_channels=192, multipliers=(1, 2, 4, 4), transformer_blocks=16),
}


def decoder_config(size: str, *, latent_channels: int = 4, downscale: int = 8) -> DecoderConfig:
    """Returns the configuration of a named size for a latent space.

    Args:
        size: one of `SIZES` (published: XS, S, B, M, L, XL, H).
        latent_channels: C of the latent space `f<F>c<C>`.
        downscale: F of the latent space.

    Raises:
        ValueError: there is no such size.
    """
    if size not in SIZES:
        raise ValueError(f"expected a decoder size among {', '.join(SIZES)}; got {size!r}")
    return replace(SIZES[size], latent_channels=latent_channels, downscale=downscale)
