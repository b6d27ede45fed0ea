"""Exact local attention with a learned relative position bias, at a cost linear in the number of tokens.

Each token attends to the 15 x 15 tokens around it (fewer at the border). Queries are taken in tiles of 8 x 8, with the
(8 + 14) x (8 + 14) keys that any of them can see, clipped to the grid. The bias masks the keys that a single query of
the tile cannot see. Per axis there are three kinds of tile (first, inner, last), so that nine calls of
scaled-dot-product attention cover any grid, and each needs only one small bias, whatever the grid or batch.

On a GPU, where no gradient is recorded, one kernel computes the same: see `attention_kernel.py`.
"""

# B batch, D token width, K heads, d = D / K, H W token grid, L blocks; q, k, v (B, H, W, K, d)

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder.config import RADIUS, WINDOW
from ssdd_decoder.gpu import prefers_kernel
from ssdd_decoder.linear import Linear, linear

TILE = 8  # larger tiles mask more of their keys, smaller ones read more keys for each query
DENSE_SIDE = TILE + WINDOW - 1  # up to this side, one tile covers the axis: an inner tile would see as many keys
OUTSIDE = WINDOW * WINDOW  # index of the entry that stands for keys beyond the window

# Of each kind of tile, by row span, then column span: (1, K, queries, keys). For the kernel, (K, queries, keys) alone.
TileBiases = list[Tensor]


@dataclass(frozen=True)
class Span:
    """Tiles of one kind along one axis: `count` of them, each `TILE` after the one before."""

    count: int
    query_start: int
    queries: int
    key_start: int
    keys: int


def spans(length: int) -> list[Span]:
    """Splits an axis into its kinds of tile; the last one includes the tokens that do not fill a tile of their own."""
    if length <= DENSE_SIDE:
        return [Span(1, 0, length, 0, length)]
    inner = (length - WINDOW) // TILE  # tiles whose window lies inside the grid
    end = TILE * (inner + 1)
    rest = length - end
    return [
        Span(1, 0, TILE, 0, TILE + RADIUS),
        Span(inner, TILE, TILE, TILE - RADIUS, TILE + 2 * RADIUS),
        Span(1, end, rest, end - RADIUS, rest + RADIUS),
    ]


class Attention(nn.Module):
    """Multi-head local self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.out_proj = Linear(width, width)

    def projection(self) -> Tensor:
        """Weights of q, k and v, one below the other, for one matrix product: (3 D, D)."""
        return torch.cat([self.to_q.weight, self.to_k.weight, self.to_v.weight])

    def forward(self, x: Tensor, projection: Tensor, biases: TileBiases) -> Tensor:
        """Tokens (B, H, W, D) -> (B, H, W, D), with the result of `projection`."""
        q, k, v = linear(x, projection).unflatten(-1, (3, self.heads, -1)).unbind(3)  # (B, H, W, K, d)
        return self.out_proj(local_attention(q, k, v, biases))


class RelativePositionBias(nn.Module):
    """Table of attention biases indexed by [query row - key row + 7, query column - key column + 7, head]."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_bias_table = nn.Parameter(torch.zeros(WINDOW, WINDOW, heads))


def attention_biases(tables: Sequence[Tensor], height: int, width: int) -> list[TileBiases]:
    """Prepares the biases of `local_attention` on an H x W grid, for each of L blocks with tables (15, 15, K)."""
    if tables and prefers_kernel(tables[0]):
        from ssdd_decoder.attention_kernel import kernel_biases  # takes a second to import, and CPUs never need it

        return [[biases] for biases in kernel_biases(tables)]
    return tile_biases(tables, height, width)


def tile_biases(tables: Sequence[Tensor], height: int, width: int) -> list[TileBiases]:
    """Gathers the biases of each kind of tile of an H x W grid, for all of L blocks at once."""
    if not tables:
        return []
    entries = torch.stack(list(tables)).permute(0, 3, 1, 2).flatten(2)  # (L, K, 225)
    entries = F.pad(entries, (0, 1), value=float("-inf")).flatten(0, 1)  # (L K, 226), the last one OUTSIDE
    kinds = [_gather(entries, r, c, len(tables)) for r in spans(height) for c in spans(width)]
    return [[biases[i] for biases in kinds] for i in range(len(tables))]


def local_attention(q: Tensor, k: Tensor, v: Tensor, biases: TileBiases) -> Tensor:
    """Attention of each token to its window.

    Args:
        q, k, v: (B, H, W, K, d).
        biases: of this grid, from `attention_biases`.

    Returns:
        (B, H, W, K d).
    """
    if torch.compiler.is_compiling() and not torch.is_grad_enabled():
        return _as_one_operator(q, k, v, biases)
    return _attend(q, k, v, biases)


def _attend(q: Tensor, k: Tensor, v: Tensor, biases: TileBiases) -> Tensor:
    if biases[0].ndim == 3:
        from ssdd_decoder.attention_kernel import kernel_attention

        return kernel_attention(q, k, v, biases[0])
    return tiled_attention(q, k, v, biases)


def tiled_attention(q: Tensor, k: Tensor, v: Tensor, biases: TileBiases) -> Tensor:
    """`local_attention`, in plain PyTorch."""
    height, width = q.shape[1:3]
    remaining, bands = iter(biases), []
    for rows in spans(height):
        parts = []
        for columns in spans(width):
            queries = (rows.query_start, rows.queries, columns.query_start, columns.queries)
            keys = (rows.key_start, rows.keys, columns.key_start, columns.keys)
            out = F.scaled_dot_product_attention(
                _tiles(q, rows.count, columns.count, *queries),
                _tiles(k, rows.count, columns.count, *keys),
                _tiles(v, rows.count, columns.count, *keys),
                attn_mask=next(remaining).to(q.dtype),  # under autocast, q is narrower than the table
            )
            parts.append(_untile(out, rows, columns))
        bands.append(torch.cat(parts, dim=2))
    return torch.cat(bands, dim=1)


@torch.library.custom_op(
    "ssdd_decoder::local_attention", mutates_args=(), schema="(Tensor q, Tensor k, Tensor v, Tensor[] biases) -> Tensor"
)
def _as_one_operator(q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor]) -> Tensor:
    """Hides the tiles from the compiler, which would trace them for minutes and make nothing faster."""
    return _attend(q, k, v, biases)


@_as_one_operator.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, biases: list[Tensor]) -> Tensor:
    return q.new_empty(*q.shape[:3], q.shape[3] * q.shape[4])


def _gather(entries: Tensor, rows: Span, columns: Span, blocks: int) -> Tensor:
    """(L K, 226) -> (L, 1, K, queries, keys) of one kind of tile; -inf where the key is outside the query's window."""
    index = _window_index(rows, columns, entries.device).flatten().expand(entries.shape[0], -1)
    queries, keys = rows.queries * columns.queries, rows.keys * columns.keys
    return entries.gather(1, index).view(blocks, 1, -1, queries, keys)


def _window_index(rows: Span, columns: Span, device: torch.device) -> Tensor:
    """Index into the flat table for each query and key of a tile: (qh, qw, kh, kw)."""
    row = _offsets(rows, device)[:, None, :, None]
    column = _offsets(columns, device)[None, :, None, :]
    inside = (row >= 0) & (row < WINDOW) & (column >= 0) & (column < WINDOW)
    return torch.where(inside, row * WINDOW + column, OUTSIDE)


def _offsets(span: Span, device: torch.device) -> Tensor:
    """Index into the table's axis for each (query, key) of a tile; outside 0..14 beyond the window."""
    query = torch.arange(span.queries, device=device) + (span.query_start - span.key_start)
    return query[:, None] - torch.arange(span.keys, device=device) + RADIUS


def _tiles(x: Tensor, rows: int, columns: int, top: int, tile_rows: int, left: int, tile_columns: int) -> Tensor:
    """Cuts (B, H, W, K, d) into rows x columns tiles: (B tiles, K, tile rows * tile columns, d)."""
    x = x[:, top : top + (rows - 1) * TILE + tile_rows, left : left + (columns - 1) * TILE + tile_columns]
    x = x.unfold(1, tile_rows, TILE).unfold(2, tile_columns, TILE)  # (B, rows, columns, K, d, th, tw)
    x = x.permute(0, 1, 2, 3, 5, 6, 4)
    return x.reshape(-1, x.shape[3], tile_rows * tile_columns, x.shape[6])


def _untile(out: Tensor, rows: Span, columns: Span) -> Tensor:
    """Puts (B tiles, K, queries, d) together as (B, height, width, K d)."""
    _, heads, _, d = out.shape
    out = out.reshape(-1, rows.count, columns.count, heads, rows.queries, columns.queries, d)
    out = out.permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(-1, rows.count * rows.queries, columns.count * columns.queries, heads * d)
