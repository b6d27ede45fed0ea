"""The shape of a decoder, and the named sizes."""

from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

PredictionType = Literal["velocity", "sample"]
RADIUS = 7  # tokens that attention reaches in each direction
WINDOW = 2 * RADIUS + 1  # the published window has 15 x 15 tokens
LIMITS = {
    "width": 16_384,
    "levels": 12,
    "transformer_blocks": 256,
    "heads": 256,
    "resnets_per_level": 32,
    "downscale": 1024,
    "upscale": 8,
    "refinement_layers": 32,
}
MAX_PARAMETERS = 2**31  # more than that is a mistake, or an attack by a checkpoint's header


def _check(name: str, value: object, most: int, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"expected {name} to be an integer from {least} to {most:,}, got {str(value)[:100]}")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Shape of a decoder.

    Args:
        base_channels: width of a level whose multiplier is 1.
        multipliers: one per level, from full resolution down; every level but the last halves the side.
        transformer_blocks: blocks at the lowest resolution.
        heads: attention heads; by default one per 64 channels, between 4 and 16.
        latent_channels: C, channels of the latent that it decodes.
        downscale: F, pixels per latent cell and side.
        resnets_per_level: residual blocks of each level on the way down; one more on the way up.
        patch_size: pixels per side folded into channels (pixel-unshuffle) before the first convolution and unfolded
            after the last; 1 in the published sizes.
        norm_groups: groups of every GroupNorm; widths are rounded up to a multiple of it.
        prediction: the output of the last convolution: `velocity` (the published sizes), or `sample`, the clean image,
            from which the velocity follows. At small training budgets a network of the clean image learns much faster.
        shortcut: add a learned linear map of the latent to the clean image that is predicted. The network then starts
            as that map and learns the rest (residual autoencoding; Chen et al., "Deep compression autoencoder", 2024).
        overlap: whether the patches of the output, and those of the shortcut, reach half a cell into their neighbours
            and are added up under a window. It takes away the grid that patches leave; patch_size must be even.
        refinement_channels: width of a residual refinement at full resolution behind all else; 0 for none.
        refinement_layers: its 3 x 3 convolutions, at least 2.
        upscale: s, for a decoder whose images are s times as large as those of the encoder: downscale is then s times
            the encoder's.

    Raises:
        ValueError: a value is out of range, the heads do not divide the lowest level's width, a shortcut or a
            refinement is asked of a network that predicts no clean image, or the network would be gigantic.
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
    prediction: PredictionType = "velocity"
    shortcut: bool = False
    overlap: bool = False
    refinement_channels: int = 0
    refinement_layers: int = 2
    upscale: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.multipliers, tuple | list) or not 1 <= len(self.multipliers) <= LIMITS["levels"]:
            raise ValueError(
                f"expected multipliers to be 1 to {LIMITS['levels']} integers, got {str(self.multipliers)[:100]}"
            )
        object.__setattr__(self, "multipliers", tuple(self.multipliers))  # JSON has lists, which cannot be hashed
        for name in ("base_channels", "latent_channels", "patch_size", "norm_groups"):
            _check(name, getattr(self, name), LIMITS["width"])
        for name in ("resnets_per_level", "downscale", "upscale"):
            _check(name, getattr(self, name), LIMITS[name])
        if self.downscale % self.upscale:
            raise ValueError(f"expected upscale to divide downscale={self.downscale}, got {self.upscale}")
        _check("transformer_blocks", self.transformer_blocks, LIMITS["transformer_blocks"], least=0)
        for multiplier in self.multipliers:
            _check("every multiplier", multiplier, LIMITS["width"])
        _check("the largest width", max(self.widths), LIMITS["width"])
        if self.heads is not None:
            _check("heads", self.heads, LIMITS["heads"])
        if self.prediction not in get_args(PredictionType):
            raise ValueError(
                f"expected prediction to be one of {get_args(PredictionType)}, got {str(self.prediction)[:100]!r}"
            )
        self._check_additions()
        if self.widths[-1] % self.attention_heads:
            raise ValueError(
                f"expected heads to divide the lowest level's width {self.widths[-1]}, got {self.attention_heads}"
            )
        if self.widths[0] % 2:  # the time embedding is half cosines, half sines
            raise ValueError(f"expected an even width of the first level, got {self.widths[0]}")
        if self.downscale % self.patch_size:
            raise ValueError(f"expected patch_size to divide downscale={self.downscale}, got {self.patch_size}")
        if (count := self.approximate_parameters) > MAX_PARAMETERS:
            raise ValueError(
                f"expected at most {MAX_PARAMETERS:,} parameters, got about {count:,}: choose a smaller one"
            )

    def _check_additions(self) -> None:
        for name in ("shortcut", "overlap"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"expected {name} to be true or false, got {str(getattr(self, name))[:100]}")
        if self.overlap and self.patch_size % 2:
            raise ValueError(f"expected an even patch_size with overlap, got {self.patch_size}: set overlap to false")
        _check("refinement_channels", self.refinement_channels, LIMITS["width"], least=0)
        _check("refinement_layers", self.refinement_layers, LIMITS["refinement_layers"], least=2)
        # Both add to a clean image. A velocity is that image minus noise, over t: they would add at the wrong scale.
        if (self.shortcut or self.refinement_channels) and self.prediction != "sample":
            raise ValueError(
                f"expected prediction 'sample' with a shortcut or a refinement, got {self.prediction!r}: "
                "change prediction, or leave both out"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, from full resolution down."""
        groups = self.norm_groups
        return tuple(-(-self.base_channels * m // groups) * groups for m in self.multipliers)

    @property
    def attention_heads(self) -> int:
        """Heads of each attention."""
        return self.heads if self.heads is not None else min(16, max(4, self.widths[-1] // 64))

    @property
    def patch_reach(self) -> int:
        """Pixels per side that a patch of the output fills, over its own."""
        return 2 if self.overlap else 1

    @property
    def approximate_parameters(self) -> int:
        """Number of weights, to within a third: the kernels of convolutions and the matrices of the transformer."""
        # Counted from the shape: a hostile configuration must be refused before any memory is taken.
        first, last = self.widths[0], self.widths[-1]
        down = sum(self.resnets_per_level * (18 * width**2 + 10 * first * width) for width in self.widths)
        up = sum((self.resnets_per_level + 1) * (29 * width**2 + 12 * first * width) for width in self.widths)
        middle = self.transformer_blocks * (16 * last**2 + 2 * first * last + WINDOW**2 * self.attention_heads)
        filled = 3 * self.patch_reach**2
        outer = 9 * first * ((3 + filled) * self.patch_size**2 + 2 * self.latent_channels) + 29 * first**2
        shortcut = filled * self.downscale**2 * self.latent_channels if self.shortcut else 0
        refinement = 9 * self.refinement_channels * (9 + (self.refinement_layers - 2) * self.refinement_channels)
        return down + up + middle + outer + shortcut + refinement


_QUICKSTART = DecoderConfig(
    base_channels=48,
    multipliers=(1, 2),
    transformer_blocks=2,
    latent_channels=16,
    resnets_per_level=1,
    patch_size=4,
    norm_groups=16,
    prediction="sample",
    shortcut=True,
    overlap=True,
    refinement_channels=16,
    refinement_layers=4,
)
SIZES = {
    "debug": DecoderConfig(
        base_channels=16, multipliers=(1, 2), transformer_blocks=2, heads=2, resnets_per_level=1, norm_groups=8
    ),
    "quickstart": _QUICKSTART,
    "demo": replace(_QUICKSTART, base_channels=64, transformer_blocks=3),
    "XS": DecoderConfig(base_channels=32, multipliers=(1, 2, 3, 3), transformer_blocks=8),
    "S": DecoderConfig(base_channels=48, multipliers=(1, 2, 3, 3), transformer_blocks=8),
    "B": DecoderConfig(base_channels=64, multipliers=(1, 2, 3, 3), transformer_blocks=10),
    "M": DecoderConfig(base_channels=96, multipliers=(1, 2, 3, 3), transformer_blocks=12),
    "L": DecoderConfig(base_channels=96, multipliers=(1, 2, 4, 4), transformer_blocks=16),
    "XL": DecoderConfig(base_channels=128, multipliers=(1, 2, 4, 4), transformer_blocks=16),
    "H": DecoderConfig(base_channels=192, multipliers=(1, 2, 4, 4), transformer_blocks=16),
}


# Earlier configurations of a size, apart from the latent space. Files that hold one still load by the size's name.
EARLIER = {
    "quickstart": (
        replace(SIZES["quickstart"], shortcut=False, overlap=False, refinement_channels=0, refinement_layers=2),
    )
}


def decoder_config(
    size: str, *, latent_channels: int | None = None, downscale: int | None = None, upscale: int = 1
) -> DecoderConfig:
    """Returns the configuration of a named size for a latent space.

    Args:
        size: one of `SIZES`: XS, S, B, M, L, XL, H (published), `debug`, `quickstart`, `demo`.
        latent_channels: C of the latent space `f<F>c<C>`; 4 by default, 16 for `quickstart` and `demo`.
        downscale: F of the latent space; 8 by default.
        upscale: s of a decoder that also enlarges; its own `downscale` is s F.

    Raises:
        ValueError: there is no such size, or F or C is out of range.
    """
    if size not in SIZES:
        raise ValueError(f"expected a decoder size among {', '.join(SIZES)}; got {size!r}")
    known = SIZES[size]
    return replace(
        known,
        latent_channels=known.latent_channels if latent_channels is None else latent_channels,
        downscale=(known.downscale if downscale is None else downscale) * upscale,
        upscale=upscale,
    )


def describe(config: DecoderConfig) -> str:
    """Names a configuration in messages: `decoder S`, or `decoder S for f16c4 latents`."""
    for name, size in SIZES.items():
        if config == size:
            return f"decoder {name}"
        if _but_latent_space(config) == _but_latent_space(size):
            times = f", enlarging {config.upscale} times" if config.upscale > 1 else ""
            return f"decoder {name} for f{config.downscale // config.upscale}c{config.latent_channels} latents{times}"
    return f"decoder of {config}"


def is_earlier(size: str, config: DecoderConfig) -> bool:
    """Says whether this is an earlier configuration of a size, for any latent space."""
    return any(_but_latent_space(config) == _but_latent_space(earlier) for earlier in EARLIER.get(size, ()))


def _but_latent_space(config: DecoderConfig) -> dict[str, object]:
    return {**asdict(config), "latent_channels": None, "downscale": None, "upscale": None}
