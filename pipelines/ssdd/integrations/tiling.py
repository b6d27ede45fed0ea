"""Decoding in tiles, where the decoder can do so exactly; never something else in silence."""

import inspect
from typing import Any

from ssdd_decoder import Decoder

TILED = "tile"  # the argument of `Decoder.decode`, pixels per side


def tile_option(tile: int | None) -> dict[str, Any]:
    """Returns the argument of `Decoder.decode` for tiles of so many pixels a side; none for 0 or None.

    Raises:
        NotImplementedError: the decoder has no tiles.
    """
    if not tile:
        return {}
    if TILED not in inspect.signature(Decoder.decode).parameters:
        raise NotImplementedError("this version of ssdd-decoder decodes pictures as a whole: leave tiling off")
    return {TILED: tile}
