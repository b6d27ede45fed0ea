"""Local attention on a GPU as one kernel, in Triton: where no gradient is recorded.

One program takes a tile of 8 x 16 queries of one head and goes through the rows of keys that any of them can see:
(8 + 14) x (16 + 14), of which a query sees 15 x 15. The bias of each query and key of a tile is the same for all tiles,
so that it is gathered once per block of the network, with -inf outside the window; keys outside the grid are masked by
their position. Softmax is accumulated over the rows (Milakov and Gimelshein, 2018; Dao et al., 2022), in float32.
"""

# B batch, H W token grid, K heads, d width of a head, L blocks; q, k, v (B, H, W, K, d)

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ssdd_decoder.config import RADIUS, WINDOW

TILE_ROWS, TILE_COLUMNS = 8, 16
QUERIES = TILE_ROWS * TILE_COLUMNS
KEY_ROWS, KEY_COLUMNS = TILE_ROWS + 2 * RADIUS, 32  # of 30: a power of two, as Triton asks
ROWS_AT_A_TIME = 2
LOG2_E = 1.4426950408889634
LEAST = 16  # width of the smallest matrix product


@triton.jit
def _attend(
    q,
    k,
    v,
    bias,
    out,
    image_stride,
    row_stride,
    column_stride,
    head_stride,
    heads,
    height,
    width,
    tile_columns,
    scale,
    d: tl.constexpr,
    d_first: tl.constexpr,
    d_rest: tl.constexpr,
    radius: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_width: tl.constexpr,
    key_rows: tl.constexpr,
    key_columns: tl.constexpr,
    rows_at_a_time: tl.constexpr,
    exact: tl.constexpr,
):
    """Attention of one tile of queries of one head of one image."""
    tile, head, image = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    top, left = tile // tile_columns * tile_rows, tile % tile_columns * tile_width
    queries: tl.constexpr = tile_rows * tile_width
    keys: tl.constexpr = rows_at_a_time * key_columns
    base = image * image_stride + head * head_stride
    number = tl.arange(0, queries)
    row, column = top + number // tile_width, left + number % tile_width
    real = (row < height) & (column < width)
    # A head's width is split into a power of two and a rest: padded to one power of two, 72 would become 128.
    first, rest = tl.arange(0, d_first), d_first + tl.arange(0, d_rest)
    in_first, in_rest = (first < d)[None, :], (rest < d)[None, :]
    at = base + row.to(tl.int64) * row_stride + column * column_stride
    q_first = tl.load(q + at[:, None] + first[None, :], mask=real[:, None] & in_first, other=0.0)
    q_rest = tl.load(q + at[:, None] + rest[None, :], mask=real[:, None] & in_rest, other=0.0)
    key_number = tl.arange(0, keys)
    key_column = left - radius + key_number % key_columns
    column_exists = (key_column >= 0) & (key_column < width)
    bias += head * queries * key_rows * key_columns + number[:, None] * (key_rows * key_columns) + key_number[None, :]
    highest = tl.full([queries], float("-inf"), dtype=tl.float32)
    total = tl.zeros([queries], dtype=tl.float32)
    sum_first = tl.zeros([queries, d_first], dtype=tl.float32)
    sum_rest = tl.zeros([queries, d_rest], dtype=tl.float32)
    for step in range(0, key_rows, rows_at_a_time):
        key_row = top - radius + step + key_number // key_columns
        exists = column_exists & (key_row >= 0) & (key_row < height)
        key_at = base + key_row.to(tl.int64) * row_stride + key_column * column_stride
        here_first, here_rest = exists[:, None] & in_first, exists[:, None] & in_rest
        k_first = tl.load(k + key_at[:, None] + first[None, :], mask=here_first, other=0.0)
        k_rest = tl.load(k + key_at[:, None] + rest[None, :], mask=here_rest, other=0.0)
        if exact:
            score = tl.dot(q_first, tl.trans(k_first), input_precision="ieee")
            score = tl.dot(q_rest, tl.trans(k_rest), score, input_precision="ieee")
        else:
            score = tl.dot(q_first, tl.trans(k_first))
            score = tl.dot(q_rest, tl.trans(k_rest), score)
        # Scores and biases are in powers of two from here on: exp2 is one instruction.
        score = score * scale + tl.load(bias + step * key_columns).to(tl.float32) * 1.4426950408889634
        score = tl.where(exists[None, :], score, float("-inf"))
        new_highest = tl.maximum(highest, tl.max(score, axis=1))
        # No key so far: -inf minus -inf would be NaN.
        level = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        weight = tl.exp2(score - level[:, None])
        fade = tl.exp2(highest - level)
        total = total * fade + tl.sum(weight, axis=1)
        highest = new_highest
        v_first = tl.load(v + key_at[:, None] + first[None, :], mask=here_first, other=0.0)
        v_rest = tl.load(v + key_at[:, None] + rest[None, :], mask=here_rest, other=0.0)
        narrow = weight.to(v_first.dtype)
        if exact:
            sum_first = tl.dot(narrow, v_first, sum_first * fade[:, None], input_precision="ieee")
            sum_rest = tl.dot(narrow, v_rest, sum_rest * fade[:, None], input_precision="ieee")
        else:
            sum_first = tl.dot(narrow, v_first, sum_first * fade[:, None])
            sum_rest = tl.dot(narrow, v_rest, sum_rest * fade[:, None])
    total = tl.where(real, total, 1.0)
    out_at = out + (((image * height + row) * width + column) * heads + head) * d
    tl.store(out_at[:, None] + first[None, :], sum_first / total[:, None], mask=real[:, None] & in_first)
    tl.store(out_at[:, None] + rest[None, :], sum_rest / total[:, None], mask=real[:, None] & in_rest)


def kernel_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention of each token to its window.

    Args:
        q, k, v: (B, H, W, K, d), of equal strides, the last axis contiguous.
        bias: (K, queries of a tile, keys), from `kernel_biases`.

    Returns:
        (B, H, W, K d).
    """
    batch, height, width, heads, d = q.shape
    first = max(LEAST, triton.next_power_of_2(d + 1) // 2)  # the largest power of two up to d
    rest = max(LEAST, triton.next_power_of_2(max(d - first, 1)))
    tile_columns = triton.cdiv(width, TILE_COLUMNS)
    out = torch.empty(batch, height, width, heads * d, device=q.device, dtype=q.dtype)
    with torch.cuda.device_of(q):  # Triton starts kernels on the current device, whichever holds the tensors
        _attend[(triton.cdiv(height, TILE_ROWS) * tile_columns, heads, batch)](
            q,
            k,
            v,
            bias,
            out,
            *q.stride()[:4],
            heads,
            height,
            width,
            tile_columns,
            LOG2_E * d**-0.5,
            d,
            first,
            rest,
            RADIUS,
            TILE_ROWS,
            TILE_COLUMNS,
            KEY_ROWS,
            KEY_COLUMNS,
            ROWS_AT_A_TIME,
            q.dtype == torch.float32,
            num_warps=8,
            num_stages=2,
        )
    return out


def kernel_biases(tables: Sequence[Tensor]) -> list[Tensor]:
    """Gathers the biases of a tile's queries and keys for each of L blocks with tables (15, 15, K).

    Returns:
        L tensors (K, 128, 704), -inf where the key is outside the query's window.
    """
    entries = torch.stack(list(tables)).permute(0, 3, 1, 2).flatten(2)  # (L, K, 225)
    entries = F.pad(entries, (0, 1), value=float("-inf"))  # the last one stands for keys beyond the window
    device = entries.device
    row = _offsets(TILE_ROWS, KEY_ROWS, device)[:, None, :, None]
    column = _offsets(TILE_COLUMNS, KEY_COLUMNS, device)[None, :, None, :]
    inside = (row >= 0) & (row < WINDOW) & (column >= 0) & (column < WINDOW)
    index = torch.where(inside, row * WINDOW + column, WINDOW * WINDOW).flatten(2).flatten(0, 1)  # (queries, keys)
    return list(entries[..., index].unbind())


def _offsets(queries: int, keys: int, device: torch.device) -> Tensor:
    """Index into the table's axis for each (query, key) of a tile, whose first key lies 7 before its first query."""
    query = torch.arange(queries, device=device)
    return query[:, None] + 2 * RADIUS - torch.arange(keys, device=device)
