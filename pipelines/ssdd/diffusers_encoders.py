"""The encoders of diffusers' autoencoders as frozen encoders: KL (Stable Diffusion 1 to 3, XL, Flux), Tiny, DC, RAE.

Those of the KL kind become an `ssdd_encoder.Encoder` when they are imported, where the network is the same.
"""

# B batch, C latent channels, F down-scale, H W pixels, h = H / F, w = W / F, s side of a picture for a fixed grid

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder.checkpoint import write
from ssdd_decoder.sources import destination
from ssdd_encoder import Posterior
from ssdd_encoder.encoder import CHECKPOINT_NAME, KIND, RANGE_TOLERANCE
from ssdd_encoder.posterior import LOGVAR_RANGE

NAME = "diffusers"  # of such encoders, as `model.encoder`
LARGEST = 16_384  # of any integer among the settings


@dataclass(frozen=True)
class _Kind:
    """What differs between the classes: names of settings, and whether a picture has to have one certain size."""

    channels: str = "latent_channels"
    levels: str = "encoder_block_out_channels"  # one more than halvings
    patch: str | None = None  # where F is a setting
    fixed: bool = False


KINDS = {
    "AutoencoderKL": _Kind(levels="block_out_channels"),
    "AutoencoderTiny": _Kind(),
    "AutoencoderDC": _Kind(),
    "AutoencoderRAE": _Kind(channels="encoder_hidden_size", patch="patch_size", fixed=True),
}


@dataclass(frozen=True, kw_only=True)
class DiffusersEncoderConfig:
    """Shape of an encoder of diffusers.

    Args:
        class_name: of the autoencoder, in diffusers.
        settings: its configuration there.

    Raises:
        ValueError: the class is not known here, or a setting is missing.
    """

    class_name: str
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        if self.class_name not in KINDS:
            raise ValueError(f"expected a class among {', '.join(KINDS)}, got {str(self.class_name)[:100]!r}")
        # Settings come from files, too: none may ask for a network of any size.
        if any(abs(number) > LARGEST for number in _integers(self.settings)):
            raise ValueError(f"expected settings of at most {LARGEST:,}, got {str(self.settings)[:100]}")
        for value in (self.latent_channels, self.downscale):
            if isinstance(value, bool) or not isinstance(value, int) or not value >= 1:
                raise ValueError(f"expected settings of an {self.class_name}, got {str(self.settings)[:100]}")

    @property
    def latent_channels(self) -> int:
        """C."""
        return self.settings.get(KINDS[self.class_name].channels, 0)

    @property
    def downscale(self) -> int:
        """F."""
        kind = KINDS[self.class_name]
        if kind.patch is not None:
            return self.settings.get(kind.patch, 0)
        return 2 ** min(len(self.settings.get(kind.levels, ())) - 1, 20) if self.settings.get(kind.levels) else 0

    @property
    def side(self) -> int | None:
        """s, pixels per side of the only size that the network takes; None where it takes any."""
        if not KINDS[self.class_name].fixed:
            return None
        return self.downscale * (self.settings["encoder_input_size"] // self.settings["encoder_patch_size"])

    @property
    def name(self) -> str:
        """`f<F>c<C>`."""
        return f"f{self.downscale}c{self.latent_channels}"

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, as far as they are known."""
        return tuple(self.settings.get(KINDS[self.class_name].levels) or (self.latent_channels,))


class DiffusersEncoder(nn.Module):
    """The encoder of an autoencoder of diffusers, called as an `ssdd_encoder.Encoder`.

    Args:
        config: its shape.

    Raises:
        ValueError: the installed diffusers has no such class, or cannot make it of these settings.
    """

    def __init__(self, config: DiffusersEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.network = diffusers_class(config.class_name).from_config(dict(config.settings))
        # Weights that are never used would be stored in every checkpoint.
        self.network.decoder = None
        if hasattr(self.network, "post_quant_conv"):
            self.network.post_quant_conv = None
        self.eval()

    def confines(self, height: int, width: int) -> bool:
        """See `ssdd_encoder.Encoder.confines`: these networks have no attention that grows faster than the map."""
        return False

    def forward(self, x: Tensor, check_finite: bool = True, check_range: bool = True) -> Posterior:
        """Encodes images (B, 3, H, W) in [-1, 1], H and W multiples of F; see `ssdd_encoder.Encoder.forward`.

        A network of one size sees the image in tiles of this size.

        Returns:
            the posterior; where the network predicts a latent alone, with the least variance that there is.

        Raises:
            ValueError: the shape is not as described, or a value that is to be checked.
        """
        scale = self.config.downscale
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] % scale or x.shape[3] % scale or 0 in x.shape:
            raise ValueError(
                f"expected images of shape (B, 3, H, W), H and W multiples of {scale}, got {tuple(x.shape)}: "
                "pad or crop them"
            )
        if check_finite and not torch.isfinite(x).all():
            raise ValueError("expected finite images, got NaN or infinity: check how they were read")
        checked = check_range and not torch.compiler.is_compiling()
        if checked and (largest := x.detach().abs().amax().item()) > 1 + RANGE_TOLERANCE:
            raise ValueError(f"expected images in [-1, 1], got values up to {largest:.3g}: rescale them")
        image = x.to(next(self.network.parameters()).dtype)
        if (side := self.config.side) is None:
            return self._posterior(image)
        posterior = self._posterior(_tiles(image, side))
        rows, columns = (-(-length // side) for length in image.shape[2:])
        h, w = (length // scale for length in image.shape[2:])
        return Posterior(*(_joined(part, rows, columns)[:, :, :h, :w] for part in (posterior.mean, posterior.logvar)))

    def save_pretrained(self, path: str | os.PathLike[str]) -> Path:
        """Writes weights and configuration as one safetensors file, whole or not at all; see `Encoder`."""
        file = destination(path, CHECKPOINT_NAME)
        return write(file, self.state_dict(), {KIND: asdict(self.config)})

    def train(self, mode: bool = True) -> "DiffusersEncoder":
        """Stays in evaluation mode: it is frozen, and some of these networks add noise in training."""
        return super().train(False)

    def _posterior(self, image: Tensor) -> Posterior:
        if self.config.class_name == "AutoencoderRAE":
            image = (image + 1) / 2  # which takes [0, 1]
        found = self.network.encode(image)
        if "latent_dist" in found:
            return Posterior(found.latent_dist.mean, found.latent_dist.logvar)
        (z,) = found.to_tuple()
        return Posterior(z, torch.full_like(z, LOGVAR_RANGE[0]))


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _integers(item)
    elif isinstance(value, int):
        yield value


def diffusers_class(name: str) -> Any:
    """Returns a class of the installed diffusers.

    Raises:
        ValueError: it has no such class.
    """
    import diffusers

    if not hasattr(diffusers, name):
        raise ValueError(f"expected a diffusers with {name}, got version {diffusers.__version__}: install a newer one")
    return getattr(diffusers, name)


def _tiles(image: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> (B tiles, 3, s, s), row by row; what lies beyond the image repeats its border."""
    height, width = image.shape[2:]
    image = F.pad(image, (0, -width % side, 0, -height % side), mode="replicate")
    tiles = image.unfold(2, side, side).unfold(3, side, side)  # (B, 3, rows, columns, s, s)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def _joined(tiles: Tensor, rows: int, columns: int) -> Tensor:
    """(B tiles, C, h, w) -> (B, C, rows h, columns w)."""
    grid = tiles.unflatten(0, (-1, rows, columns)).permute(0, 3, 1, 4, 2, 5)
    return grid.flatten(4, 5).flatten(2, 3)
