"""Exact local attention with a learned relative position bias, at a cost linear in the number of tokens.

Each token attends to the 15 x 15 tokens around it (fewer at the border). Queries are taken in tiles of 8 x 8, with the
(8 + 14) x (8 + 14) keys that any of them can see, clipped to the grid; what one query of the tile sees and another
does not is masked by the bias. Per axis there are three kinds of tile (first, inner, last), so nine calls of
scaled-dot-product attention cover any grid, and each needs only one small bias, whatever the grid or batch.
"""

# B batch, K heads, d = D / K, H W token grid; q, k, v (B, H, W, K, d)

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RADIUS = 7
WINDOW = 2 * RADIUS + 1
TILE = 8
DENSE_SIDE = TILE + WINDOW - 1  # up to this side one tile holds the axis


@dataclass(frozen=True)
class Span:
    """Tiles of one kind along one axis: `count` of them, each `TILE` after the one before."""

    count: int
    query_start: int
    queries: int
    key_start: int
    keys: int


def spans(length: int) -> list[Span]:
    """Splits an axis into its kinds of tile; the last one takes what does not fill a tile of its own."""
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


class RelativePositionBias(nn.Module):
    """Table of attention biases indexed by [query row - key row + 7, query column - key column + 7, head]."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.relative_bias_table = nn.Parameter(torch.zeros(WINDOW, WINDOW, heads))

    def forward(self, height: int, width: int) -> list[list[Tensor]]:
        """Biases of each kind of tile of an H x W grid: by row span and column span, (K, queries, keys)."""
        rows, columns = spans(height), spans(width)
        return [[tile_bias(self.relative_bias_table, r, c) for c in columns] for r in rows]


def tile_bias(table: Tensor, rows: Span, columns: Span) -> Tensor:
    """(15, 15, K) -> (K, queries, keys) of one tile; -inf where the key is outside the query's window."""
    row, column = _offsets(rows, table.device), _offsets(columns, table.device)
    bias = table[row.clamp(0, WINDOW - 1)][:, :, column.clamp(0, WINDOW - 1)]  # (qh, kh, qw, kw, K)
    inside = _inside(row)[:, :, None, None] & _inside(column)
    bias = bias.masked_fill(~inside[..., None], float("-inf"))
    return bias.permute(4, 0, 2, 1, 3).reshape(table.shape[2], rows.queries * columns.queries, rows.keys * columns.keys)


def local_attention(q: Tensor, k: Tensor, v: Tensor, biases: list[list[Tensor]]) -> Tensor:
    """Attention of each token to its window.

    Args:
        q, k, v: (B, H, W, K, d).
        biases: of this grid, from `RelativePositionBias`.

    Returns:
        (B, H, W, K d).
    """
    height, width = q.shape[1:3]
    bands = []
    for rows, row_biases in zip(spans(height), biases, strict=True):
        parts = []
        for columns, bias in zip(spans(width), row_biases, strict=True):
            queries = (rows.query_start, rows.queries, columns.query_start, columns.queries)
            keys = (rows.key_start, rows.keys, columns.key_start, columns.keys)
            out = F.scaled_dot_product_attention(
                _tiles(q, rows.count, columns.count, *queries),
                _tiles(k, rows.count, columns.count, *keys),
                _tiles(v, rows.count, columns.count, *keys),
                attn_mask=bias[None].to(q.dtype),
            )
            parts.append(_untile(out, rows, columns))
        bands.append(torch.cat(parts, dim=2))
    return torch.cat(bands, dim=1)


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


def _offsets(span: Span, device: torch.device) -> Tensor:
    """Index into the table's axis for each (query, key) of a tile; outside 0..14 beyond the window."""
    query = torch.arange(span.queries, device=device) + (span.query_start - span.key_start)
    return query[:, None] - torch.arange(span.keys, device=device) + RADIUS


def _inside(offset: Tensor) -> Tensor:
    return (offset >= 0) & (offset < WINDOW)
