"""The same local attention as one fused kernel (flex_attention), for CUDA where no gradient is recorded.

Tokens are put in order of tiles of 8 x 16, so that each tile is one block of the kernel and sees at most the 3 x 3
tiles around it: cost stays linear in tokens. The window is the kernel's mask and the table its score modification.
Training keeps the plain form: the kernel's gradient of a table would be summed with colliding atomic additions.
"""

# B batch, K heads, d = D / K, H W token grid, T tiles, N = 128 T tokens with padding; q, k, v (B, H, W, K, d)

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd_decoder.window import RADIUS

TILE_ROWS, TILE_COLUMNS = 8, 16
BLOCK = TILE_ROWS * TILE_COLUMNS


@dataclass(frozen=True)
class FusedBias:
    """What the kernel needs, as tensors alone.

    Args:
        table: (15, 15, K), of the block's biases.
        rows, columns: (N,), place of each token of the tiled order in the grid; beyond it where it is padding.
        real: (N,), whether the token is not padding.
        counts: (1, 1, T), how many tiles each tile sees.
        neighbours: (1, 1, T, T), which: the first `counts` of each row.
    """

    table: Tensor
    rows: Tensor
    columns: Tensor
    real: Tensor
    counts: Tensor
    neighbours: Tensor


def prefers_fused(table: Tensor) -> bool:
    """Whether the fused kernel is the one to use for a model with such parameters, here and now."""
    return table.is_cuda and table.dtype != torch.float64 and not torch.is_grad_enabled()


def fused_biases(tables: Sequence[Tensor], height: int, width: int) -> list[FusedBias]:
    """What `fused_attention` needs on an H x W grid, for each of several blocks."""
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
        row = (rows[query] - rows[key] + RADIUS).clamp(0, 2 * RADIUS)
        column = (columns[query] - columns[key] + RADIUS).clamp(0, 2 * RADIUS)
        return score + table[row, column, head]

    # Lists of a tile's queries are for a backward pass only; a compiler leaves them out by itself.
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
