"""The same local attention as one fused kernel (flex_attention), for CUDA where no gradient is recorded.

Tokens are put in order of tiles of 8 x 16, so that each tile is one block of the kernel and sees at most the 3 x 3
tiles around it: cost stays linear in tokens. The window is the kernel's mask and the table its score modification.
Training keeps the plain form: the kernel's gradient of a table would be summed with colliding atomic additions.
"""

# B batch, K heads, d = D / K, H W token grid, T tiles, N = 128 T tokens with padding; q, k, v (B, H, W, K, d)

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd_decoder.window import RADIUS

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

TILE_ROWS, TILE_COLUMNS = 8, 16
BLOCK = TILE_ROWS * TILE_COLUMNS


@dataclass(frozen=True)
class FusedBias:
    """What the kernel needs: `table` (15, 15, K), the mask of the grid, and the position of each token.

    Args:
        table: of the block's biases.
        rows, columns: (N,) place of each token of the tiled order in the grid; beyond it where it is padding.
        mask: the window, with the blocks that it touches.
    """

    table: Tensor
    rows: Tensor
    columns: Tensor
    mask: "BlockMask"


def prefers_fused(table: Tensor) -> bool:
    """Whether the fused kernel is the one to use for a model with such parameters, here and now."""
    return table.is_cuda and table.dtype != torch.float64 and not torch.is_grad_enabled()


def fused_biases(tables: Sequence[Tensor], height: int, width: int) -> list[FusedBias]:
    """What `fused_attention` needs on an H x W grid, for each of several blocks."""
    from torch.nn.attention.flex_attention import BlockMask  # takes seconds to import, and CPUs never need it

    device = tables[0].device
    tile_rows, tile_columns = -(-height // TILE_ROWS), -(-width // TILE_COLUMNS)
    token = torch.arange(tile_rows * tile_columns * BLOCK, device=device)
    tile, within = token // BLOCK, token % BLOCK
    rows = tile // tile_columns * TILE_ROWS + within // TILE_COLUMNS
    columns = tile % tile_columns * TILE_COLUMNS + within % TILE_COLUMNS
    valid = (rows < height) & (columns < width)

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = ((rows[query] - rows[key]).abs() <= RADIUS) & ((columns[query] - columns[key]).abs() <= RADIUS)
        return (near & valid[key]) | (query == key)  # padding sees itself, so that no row is empty

    neighbours = _adjacent(tile_rows, device)[:, None, :, None] & _adjacent(tile_columns, device)[None, :, None, :]
    neighbours = neighbours.reshape(tile_rows * tile_columns, tile_rows * tile_columns)
    mask = BlockMask.from_kv_blocks(
        neighbours.sum(1, dtype=torch.int32)[None, None],
        neighbours.to(torch.int8).argsort(dim=1, descending=True, stable=True).to(torch.int32)[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
    )
    return [FusedBias(table, rows, columns, mask) for table in tables]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: FusedBias) -> Tensor:
    """Attention of each token to its window: q, k, v (B, H, W, K, d) -> (B, H, W, K d)."""
    height, width = q.shape[1:3]
    table, rows, columns = bias.table, bias.rows, bias.columns

    def add_bias(score: Tensor, b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = (rows[query] - rows[key] + RADIUS).clamp(0, 2 * RADIUS)
        column = (columns[query] - columns[key] + RADIUS).clamp(0, 2 * RADIUS)
        return score + table[row, column, head]

    out = _kernel(compiled=q.is_cuda)(_to_tiles(q), _to_tiles(k), _to_tiles(v), score_mod=add_bias, block_mask=bias.mask)
    return _from_tiles(out, height, width)


@cache
def _kernel(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


def _adjacent(tiles: int, device: torch.device) -> Tensor:
    """(tiles, tiles): whether a window can reach from one tile of an axis into another."""
    place = torch.arange(tiles, device=device)
    return (place[:, None] - place).abs() <= 1


def _to_tiles(x: Tensor) -> Tensor:
    """(B, H, W, K, d) -> (B, K, N, d), in order of tiles, padded with zeros to whole tiles."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, 0, 0, -width % TILE_COLUMNS, 0, -height % TILE_ROWS))
    x = x.unflatten(2, (-1, TILE_COLUMNS)).unflatten(1, (-1, TILE_ROWS))  # (B, rows, 8, columns, 16, K, d)
    return x.permute(0, 5, 1, 3, 2, 4, 6).flatten(2, 5)


def _from_tiles(x: Tensor, height: int, width: int) -> Tensor:
    """(B, K, N, d) -> (B, H, W, K d), without the padding."""
    tile_columns = -(-width // TILE_COLUMNS)
    x = x.unflatten(2, (-1, tile_columns, TILE_ROWS, TILE_COLUMNS))  # (B, K, rows, columns, 8, 16, d)
    x = x.permute(0, 2, 4, 3, 5, 1, 6).flatten(5).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width]
