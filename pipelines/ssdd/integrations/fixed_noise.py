"""Noise of a fixed seed, as one operator: a compiler cannot make generators."""

import torch
from torch import Tensor

from ssdd_decoder.flow import draw_noise

SEED = 0


@torch.library.custom_op("ssdd::fixed_noise", mutates_args=())
def fixed_noise(like: Tensor, height: int, width: int) -> Tensor:
    """Draws (1, 3, height, width) in float32 at least, on the device of `like`: always the same numbers."""
    return draw_noise((1, 3, height, width), like, torch.Generator().manual_seed(SEED))


@fixed_noise.register_fake
def _(like: Tensor, height: int, width: int) -> Tensor:
    return like.new_empty(1, 3, height, width, dtype=torch.promote_types(like.dtype, torch.float32))
