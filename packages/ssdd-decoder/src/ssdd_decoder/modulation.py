"""Scale and shift of features by the latent, kept at latent resolution.

Features are scaled and shifted through a view, so that nothing is upsampled in memory.
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
        scale: (B, h, w, C), the factor itself (one is already added).
        shift: (B, h, w, C). Both (1, h, w, C) where all images share them.
    """

    scale: Tensor
    shift: Tensor

    @property
    def cells(self) -> torch.Size:
        """Latent cells: (h, w)."""
        return self.scale.shape[1:3]

    def split(self, channels: list[int]) -> "Iterator[Modulation]":
        """The modulations that lie side by side in this one, with so many channels each."""
        return map(Modulation, self.scale.split(channels, dim=-1), self.shift.split(channels, dim=-1))

    def fit(self, height: int, width: int) -> "Modulation":
        """The modulation of H x W features: itself, or, if they are not r x q a cell, one with a cell for each."""
        h, w = self.cells
        if height % h == 0 and width % w == 0:
            return self
        rows = torch.arange(height, device=self.scale.device) * h // height
        columns = torch.arange(width, device=self.scale.device) * w // width
        return Modulation(self.scale[:, rows][:, :, columns], self.shift[:, rows][:, :, columns])

    def after(self, mean: Tensor, inverse: Tensor) -> "Modulation":
        """The modulation that first subtracts a mean (B, C) and multiplies by an inverse deviation (B, C)."""
        scale = self.scale * inverse[:, None, None]
        return Modulation(scale, torch.addcmul(self.shift, mean[:, None, None], scale, value=-1))

    def to(self, dtype: torch.dtype) -> "Modulation":
        """The same in another dtype."""
        return Modulation(self.scale.to(dtype), self.shift.to(dtype))

    def apply(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """(B, H, W, C) -> x * scale + shift, each latent cell covering its r x q features."""
        return self.fit(*x.shape[1:3]).apply_in_cells(x, overwrite).view(x.shape)

    def apply_in_cells(self, x: Tensor, overwrite: bool = False) -> Tensor:
        """`apply` where r and q are whole, its result seen by cell: (B, h, r, w, q, C)."""
        cells = in_cells(x, self.cells)
        scale, shift = (m[:, :, None, :, None] for m in (self.scale, self.shift))  # (B, h, 1, w, 1, C)
        return torch.addcmul(shift, cells, scale, out=cells if overwrite else None)


def in_cells(x: Tensor, cells: torch.Size) -> Tensor:
    """View of features (B, H, W, C) by latent cell: (B, h, r, w, q, C)."""
    (batch, height, width, channels), (h, w) = x.shape, cells
    return x.view(batch, h, height // h, w, width // w, channels)


def may_overwrite() -> bool:
    """Whether what is not needed any more may be written over: neither gradients nor a graph are recorded."""
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling()
