"""The shape of an encoder, and the named encoders: `f<F>c<C>`, and three small ones."""

import re
from dataclasses import dataclass, replace

SDVAE = "sdvae"
LIMITS = {"width": 16_384, "levels": 12, "resnets_per_level": 32, "downscale": 1024, "attention_window": 1024}
MAX_PARAMETERS = 2**31  # more than that is a mistake, or an attack by a checkpoint's header


def _check(name: str, value: object, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"expected {name} to be an integer from 1 to {most:,}, got {str(value)[:100]}")


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
        attention: whether the middle has its single-head self-attention.
        attention_window: the attention's reach: it stays within windows of at most so many cells a side, so that its
            cost grows with the number of pixels and no faster; None attends to the whole map.
        shortcut: add a learned linear map of each F x F patch to the posterior's mean. The network then starts as that
            map and learns the rest (residual autoencoding; Chen et al., "Deep compression autoencoder", 2024).

    Raises:
        ValueError: a value is not a positive integer within the limits above, a width is not a multiple of
            `norm_groups`, or the network would be gigantic.
    """

    latent_channels: int = 4
    base_channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    resnets_per_level: int = 2
    patch_size: int = 1
    norm_groups: int = 32
    attention: bool = True
    attention_window: int | None = None
    shortcut: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.multipliers, tuple | list) or not 1 <= len(self.multipliers) <= LIMITS["levels"]:
            raise ValueError(
                f"expected multipliers to be 1 to {LIMITS['levels']} integers, got {str(self.multipliers)[:100]}"
            )
        object.__setattr__(self, "multipliers", tuple(self.multipliers))  # JSON has lists, which cannot be hashed
        for name in ("latent_channels", "base_channels", "patch_size", "norm_groups"):
            _check(name, getattr(self, name), LIMITS["width"])
        _check("resnets_per_level", self.resnets_per_level, LIMITS["resnets_per_level"])
        for multiplier in self.multipliers:
            _check("every multiplier", multiplier, LIMITS["width"])
        _check("the largest width", max(self.widths), LIMITS["width"])
        _check("downscale", self.downscale, LIMITS["downscale"])
        for name in ("attention", "shortcut"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"expected {name} to be true or false, got {str(getattr(self, name))[:100]}")
        if self.attention_window is not None:
            _check("attention_window", self.attention_window, LIMITS["attention_window"])
            if not self.attention:
                raise ValueError(
                    f"expected no attention_window without attention, got {self.attention_window}: set it to null"
                )
        if any(width % self.norm_groups for width in self.widths):
            raise ValueError(
                f"expected every width to be a multiple of norm_groups={self.norm_groups}, got {self.widths}: "
                "change base_channels, multipliers or norm_groups"
            )
        if (count := self.approximate_parameters) > MAX_PARAMETERS:
            raise ValueError(
                f"expected at most {MAX_PARAMETERS:,} parameters, got about {count:,}: choose a smaller one"
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
        """`f<F>c<C>`, the field's name for a latent space."""
        return f"f{self.downscale}c{self.latent_channels}"

    @property
    def approximate_parameters(self) -> int:
        """Number of weights, to within a third: only the kernels of convolutions are counted."""
        # Counted from the shape: a hostile configuration must be refused before any memory is taken.
        levels = sum(18 * self.resnets_per_level * width**2 + 9 * width**2 for width in self.widths)
        outer = 27 * self.patch_size**2 * self.widths[0] + 18 * self.widths[-1] * self.latent_channels
        shortcut = 3 * self.downscale**2 * self.latent_channels if self.shortcut else 0
        return levels + 40 * self.widths[-1] ** 2 + outer + 4 * self.latent_channels**2 + shortcut


VARIANTS = {
    "debug": EncoderConfig(base_channels=8, multipliers=(1, 2, 2, 2), resnets_per_level=1, norm_groups=8),
}
# Both are f8c16, which holds as many numbers as f4c4: a code of larger patches keeps more with them.
VARIANTS["quickstart"] = EncoderConfig(
    latent_channels=16,
    base_channels=48,
    multipliers=(1, 1),
    patch_size=4,
    norm_groups=8,
    attention_window=8,
    shortcut=True,
)
VARIANTS["demo"] = replace(VARIANTS["quickstart"], base_channels=64)
# Earlier configurations of a name. Files that hold one of them still load by that name.
_F4C4 = EncoderConfig(base_channels=24, multipliers=(1, 1), patch_size=2, norm_groups=8)
EARLIER = {"quickstart": (_F4C4, replace(_F4C4, attention_window=16, shortcut=True))}


def encoder_config(name: str) -> EncoderConfig:
    """Returns a named encoder.

    Args:
        name: `f<F>c<C>` with F a power of two from 2 to 1024 (down-scale per side) and C at least 1 (latent channels);
            `sdvae` (SD-VAE's encoder, which is an f8c4); one of `VARIANTS`: `debug`, `quickstart`, `demo`; or one of
            these for another latent space, such as `quickstart-f8c4`.

    Raises:
        ValueError: there is no such encoder.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    variant, _, space = name.partition("-")
    if variant in VARIANTS and (match := re.fullmatch(r"f([0-9]{1,4})c([0-9]{1,5})", space)):
        return _in_space(variant, downscale=int(match[1]), channels=int(match[2]))
    match = re.fullmatch(r"f([0-9]{1,4})c([0-9]{1,5})", "f8c4" if name == SDVAE else name)
    downscale, channels = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 2 <= downscale <= LIMITS["downscale"] or downscale & (downscale - 1) or channels < 1:
        raise ValueError(
            f"expected an encoder named f<F>c<C> with F a power of two from 2 to {LIMITS['downscale']} and C from 1 up "
            f"(f8c4, f16c32, ...), {SDVAE}, or one of {', '.join(VARIANTS)}; got {name!r}"
        )
    return EncoderConfig(latent_channels=channels, multipliers=_multipliers(downscale.bit_length()))


def _in_space(variant: str, downscale: int, channels: int) -> EncoderConfig:
    """Returns a variant for a latent space: its patches get another size, its windows still cover as many pixels."""
    known = VARIANTS[variant]
    levels = 2 ** (len(known.multipliers) - 1)
    if channels < 1 or downscale % levels or not levels <= downscale <= LIMITS["downscale"]:
        raise ValueError(
            f"expected {variant}-f<F>c<C> with F a multiple of {levels} up to {LIMITS['downscale']} and C from 1 up, "
            f"got {variant}-f{downscale}c{channels}"
        )
    window = known.attention_window and max(1, known.attention_window * known.downscale // downscale)
    return replace(known, latent_channels=channels, patch_size=downscale // levels, attention_window=window)


def describe(config: EncoderConfig) -> str:
    """Names a configuration in messages: `encoder f8c4`."""
    for name, variant in VARIANTS.items():
        if config == variant:
            return f"encoder {name}"
    published = EncoderConfig(latent_channels=config.latent_channels, multipliers=_multipliers(len(config.multipliers)))
    return f"encoder {config.name}" if config == published else f"encoder {config.name} of {config}"


def _multipliers(levels: int) -> tuple[int, ...]:
    """The published encoders' multipliers: 1, 2, then 4 in every further level."""
    return ((1, 2) + (4,) * levels)[:levels]
