"""Local attention as one fused kernel (flex_attention), on CUDA where no gradient is recorded.

Tokens are sorted into tiles of 8 x 16. Each tile is one block of the kernel and sees at most the 3 x 3 tiles around it,
so that the cost stays linear in tokens. The window is the kernel's mask and the table its score modification.
Training uses the plain form (`attention.py`): the kernel would sum a table's gradient by atomic additions that collide.
"""

# B batch, K heads, d = D / K, H W token grid, T tiles, N = 128 T tokens with padding; q, k, v (B, H, W, K, d)

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd_decoder.config import RADIUS

TILE_ROWS, TILE_COLUMNS = 8, 16  # not below RADIUS, or a window would reach past the neighbouring tile
BLOCK = TILE_ROWS * TILE_COLUMNS  # flex_attention's own block size


@dataclass(frozen=True)
class FusedBias:
    """The kernel's arguments, as tensors alone: a compiler then keeps one graph for all grids.

    Args:
        table: (15, 15, K), the block's biases.
        rows, columns: (N,), grid position of each token in tiled order; padding lies outside the grid.
        real: (N,), whether the token is not padding.
        counts: (1, 1, T), how many tiles each tile sees.
        neighbours: (1, 1, T, T), the indices of these tiles: the first `counts` of each row.
    """

    table: Tensor
    rows: Tensor
    columns: Tensor
    real: Tensor
    counts: Tensor
    neighbours: Tensor


def prefers_fused(table: Tensor) -> bool:
    """Whether to use the fused kernel for a model with such parameters, in the present gradient mode."""
    # The kernel has no float64.
    return table.is_cuda and table.dtype != torch.float64 and not torch.is_grad_enabled()


def fused_biases(tables: Sequence[Tensor], height: int, width: int) -> list[FusedBias]:
    """Prepares the arguments of `fused_attention` on an H x W grid, for each of several blocks."""
    device = tables[0].device
    tile_rows, tile_columns = -(-height // TILE_ROWS), -(-width // TILE_COLUMNS)
    token = torch.arange(tile_rows * tile_columns * BLOCK, device=device)
    tile, within = token // BLOCK, token % BLOCK
    rows = tile // tile_columns * TILE_ROWS + within // TILE_COLUMNS
    columns = tile % tile_columns * TILE_COLUMNS + within % TILE_COLUMNS
    seen = _adjacent(tile_rows, device)[:, None, :, None] & _adjacent(tile_columns, device)[None, :, None, :]
    seen = seen.flatten(2, 3).flatten(0, 1)[None, None]  # (1, 1, T, T)
    counts = seen.sum(-1, dtype=torch.int32)
    neighbours = seen.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    real = (rows < height) & (columns < width)
    return [FusedBias(table, rows, columns, real, counts, neighbours) for table in tables]


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: FusedBias) -> Tensor:
    """Attention of each token to its window: q, k, v (B, H, W, K, d) -> (B, H, W, K d)."""
    from torch.nn.attention.flex_attention import BlockMask, flex_attention  # seconds to import; CPUs never need it

    table, rows, columns, real = bias.table, bias.rows, bias.columns, bias.real

    def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = ((rows[query] - rows[key]).abs() <= RADIUS) & ((columns[query] - columns[key]).abs() <= RADIUS)
        return (near & real[key]) | (query == key)  # padding sees itself, so that no row is empty

    def add_bias(score: Tensor, b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        # Scores are computed before the mask removes them, so that the indices must be valid everywhere.
        row = (rows[query] - rows[key] + RADIUS).clamp(0, 2 * RADIUS)
        column = (columns[query] - columns[key] + RADIUS).clamp(0, 2 * RADIUS)
        return score + table[row, column, head]

    # The lists of each tile's queries serve a backward pass only. A compiler drops them; eager code would build them.
    options = {} if torch.compiler.is_compiling() else _without_lists_of_queries()
    mask = BlockMask.from_kv_blocks(bias.counts, bias.neighbours, BLOCK_SIZE=BLOCK, mask_mod=sees, **options)
    attend = torch.compile(flex_attention, dynamic=True) if q.is_cuda else flex_attention
    out = attend(_to_tiles(q), _to_tiles(k), _to_tiles(v), score_mod=add_bias, block_mask=mask)
    return _from_tiles(out, *q.shape[1:3])


def _without_lists_of_queries() -> dict[str, Any]:
    from torch.nn.attention.flex_attention import BlockMask

    make: Any = BlockMask.from_kv_blocks
    return {"compute_q_blocks": False} if "compute_q_blocks" in make.__code__.co_varnames else {}  # not in PyTorch 2.6


def _adjacent(tiles: int, device: torch.device) -> Tensor:
    """(tiles, tiles): whether a window can reach from one tile of an axis into another."""
    place = torch.arange(tiles, device=device)
    return (place[:, None] - place).abs() <= 1


def _to_tiles(x: Tensor) -> Tensor:
    """(B, H, W, K, d) -> (B, K, N, d), in tiled order, padded with zeros to whole tiles."""
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
