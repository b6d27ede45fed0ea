"""Pictures of any size through the networks: as a whole up to a size, in strips of rows above it."""

# B batch, C latent channels, h w latent cells, H W pixels

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ssdd.encoders import AnyEncoder
from ssdd_encoder import Encoder
from ssdd_encoder.blocks import LARGE_WINDOW

LARGE = 2**20  # pixels: 1024 x 1024. A decoder S needs 3 GB of memory for so many as a whole
TILE = 512  # pixels per side: a strip has as many pixels as a square of this side
CONFINED = f"it is large: the encoder's attention is confined to windows of {LARGE_WINDOW} x {LARGE_WINDOW} cells"

Tell = Callable[[float], None]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Which pictures are computed in strips, and how far attention sees in them.

    Args:
        tile: None for strips of `TILE` x `TILE` pixels in pictures of more than `LARGE` pixels; 0 for none; or a side.
        attention_window: see `Encoder.forward`.
    """

    tile: int | None = None
    attention_window: int | None = None

    def side(self, height: int, width: int) -> int | None:
        """The networks' `tile` for pictures of that size."""
        if self.tile is None:
            return TILE if height * width > LARGE else None
        return self.tile or None

    def encode(self, encoder: AnyEncoder, x: Tensor, tell: Tell | None = None) -> Tensor:
        """Images (B, 3, H, W) -> modes of their posteriors (B, C, h, w); `tell` is told the part that is done."""
        options: dict[str, Any] = {}
        if isinstance(encoder, Encoder):  # the encoders of diffusers have ways of their own
            options = {"attention_window": self.attention_window, "tile": self.side(*x.shape[2:]), "progress": tell}
        return encoder(x, **options).mode()


def parts(advance: Callable[[float], None], images: float) -> Tell:
    """Returns a function that takes the done part of some images' work, and counts what is new in it."""
    before = 0.0

    def tell(part: float) -> None:
        nonlocal before
        advance(images * (part - before))
        before = part

    return tell
