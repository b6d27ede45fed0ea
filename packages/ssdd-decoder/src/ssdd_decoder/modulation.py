"""Scale and shift of features by the latent, kept at latent resolution.

Features are modulated through a view by latent cell, so that scale and shift are never upsampled in memory.
"""

# B batch, C channels, H W feature map, h w latent cells, r = H / h, q = W / w; maps are channels-last: (B, H, W, C)

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Modulation:
    """Scale and shift of normalised features, one per latent cell and channel.

    Args:
        scale: (B, h, w, C), the factor itself (1 is already added).
        shift: (B, h, w, C). Both (1, h, w, C) where all images share them.
    """

    scale: Tensor
    shift: Tensor

    @property
    def cells(self) -> torch.Size:
        """Latent cells: (h, w)."""
        return self.scale.shape[1:3]

    def split(self, channels: list[int]) -> "Iterator[Modulation]":
        """Splits this modulation along its channels."""
        return map(Modulation, self.scale.split(channels, dim=-1), self.shift.split(channels, dim=-1))

    def fit(self, height: int, width: int) -> "Modulation":
        """Returns itself where each cell covers r x q of the H x W features, else a modulation with a cell for each."""
        h, w = self.cells
        if height % h == 0 and width % w == 0:
            return self
        # Nearest cell of each feature, rounded as in `F.interpolate`, which the published network uses.
        rows = torch.arange(height, device=self.scale.device) * h // height
        columns = torch.arange(width, device=self.scale.device) * w // width
        return Modulation(self.scale[:, rows][:, :, columns], self.shift[:, rows][:, :, columns])

    def after(self, mean: Tensor, inverse: Tensor) -> "Modulation":
        """Returns the modulation that includes a norm with mean (B, C) and inverse deviation (B, C) before this one."""
        scale = self.scale * inverse[:, None, None]
        return Modulation(scale, torch.addcmul(self.shift, mean[:, None, None], scale, value=-1))

    def to(self, dtype: torch.dtype) -> "Modulation":
        """Converts both to another dtype."""
        return Modulation(self.scale.to(dtype), self.shift.to(dtype))

    def apply(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """(B, H, W, C) -> x * scale + shift, each latent cell covering its r x q features."""
        return self.fit(*x.shape[1:3]).apply_in_cells(x, overwrite).view(x.shape)

    def apply_in_cells(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """Does the work of `apply` where r and q are integers; the result is viewed by cell: (B, h, r, w, q, C)."""
        cells = in_cells(x, self.cells)
        scale, shift = (m[:, :, None, :, None] for m in (self.scale, self.shift))  # (B, h, 1, w, 1, C)
        return torch.addcmul(shift, cells, scale, out=cells if overwrite else None)


def in_cells(x: Tensor, cells: torch.Size) -> Tensor:
    """View of features (B, H, W, C) by latent cell: (B, h, r, w, q, C)."""
    (batch, height, width, channels), (h, w) = x.shape, cells
    return x.view(batch, h, height // h, w, width // w, channels)


def may_overwrite() -> bool:
    """Whether features that are no longer needed may be overwritten: no gradient and no graph is being recorded."""
    # A compiler plans memory by itself, and copies whatever is overwritten.
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()
