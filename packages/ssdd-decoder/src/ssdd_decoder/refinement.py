"""Residual refinement of the clean image at full resolution, against the grid that patches leave."""

# B batch, H W pixels

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Refinement(nn.Module):
    """A few 3x3 convolutions over the predicted clean image and the noisy one, added to the former.

    Args:
        channels: width between the convolutions.
        layers: convolutions, from 2 up.
    """

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        widths = [6] + [channels] * (layers - 1) + [3]
        self.convs = cast(
            "Sequence[nn.Conv2d]", nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        )

    def initialize(self) -> None:
        """Starts as the identity. The other weights are larger than the network's, for no norm stands between them."""
        for conv in self.convs:
            conv.reset_parameters()
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        nn.init.zeros_(self.convs[-1].weight)

    def forward(self, clean: Tensor, x_t: Tensor) -> Tensor:
        """(B, 3, H, W) twice -> (B, 3, H, W)."""
        h = torch.cat([clean, x_t], dim=1).contiguous(memory_format=torch.channels_last)
        for conv in self.convs[:-1]:
            h = F.silu(conv(h))
        return clean + self.convs[-1](h)
