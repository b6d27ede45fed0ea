"""An image from patches: side by side, or overlapping by half, which leaves no grid.

Patches that meet are predicted one by one, and their errors jump at every border, most of all after short
training. Here each patch reaches half a cell into its neighbours and fades out under a triangular window, so that the
image stays continuous whatever the patches hold (lapped transforms; Malvar and Staelin, 1989).
"""

# B batch, s pixels per cell and side, h w cells

import torch
import torch.nn.functional as F
from torch import Tensor


def join(patches: Tensor, side: int, overlap: bool) -> Tensor:
    """Makes images of patches.

    Args:
        patches: (B, 3 s^2, h, w), or (B, 3 (2 s)^2, h, w) where they overlap.
        side: s; 1 for pixels, which need no joining.
        overlap: whether they do.

    Returns:
        (B, 3, h s, w s).
    """
    if overlap:
        return overlap_add(patches, side)
    return F.pixel_shuffle(patches, side) if side > 1 else patches


def overlap_add(patches: Tensor, side: int) -> Tensor:
    """Adds patches of 2 s x 2 s pixels around cells of s x s pixels, each weighted by its window.

    The weights at each pixel sum to one. At the image's border, where fewer patches reach, they are scaled to do so.

    Args:
        patches: (B, 3 (2 s)^2, h, w), in `pixel_shuffle`'s order: channel, row, column.
        side: s, even.

    Returns:
        (B, 3, h s, w s).
    """
    batch, _, h, w = patches.shape
    window = _window(side, patches)
    weighted = patches.unflatten(1, (3, 2 * side, 2 * side)) * (window[:, None] * window)[:, :, None, None]
    image = F.fold(weighted.reshape(batch, -1, h * w), (h * side, w * side), 2 * side, stride=side, padding=side // 2)
    return image / (_coverage(window, h)[:, None] * _coverage(window, w))


def _window(side: int, like: Tensor) -> Tensor:
    """Triangle over 2 s pixels; with its neighbours, half a window away, it sums to one."""
    distance = torch.arange(0.5 - side, side, dtype=like.dtype, device=like.device).abs()
    return 1 - distance / side


def _coverage(window: Tensor, cells: int) -> Tensor:
    """Sum of the windows along an axis: one, but for half a cell at both ends."""
    side = len(window) // 2
    covered = torch.ones(cells * side, dtype=window.dtype, device=window.device)
    covered[: side // 2] = window[side // 2 : side]
    covered[covered.shape[0] - side // 2 :] = window[side : side + side // 2]
    return covered
