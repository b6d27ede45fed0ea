"""GroupNorm, modulation and SiLU of channels-last features on a GPU: two passes over the features, in Triton.

PyTorch's own group norm copies channels-last features to the other layout and back on CUDA, and normalises, modulates
and applies SiLU in passes of their own: seven reads and writes of the features more than here. The first pass reads
them for the statistics, the second one reads and writes them. Scale and shift stay at latent resolution, and arithmetic
is in float32 whatever the dtype.
"""

# B batch, C channels, G groups, N = H W pixels, h w latent cells; features are channels-last: [image, pixel, channel]

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

MOMENTS_TILE, MOMENTS_WARPS = 2048, 4  # elements that a program holds at a time, and groups of 32 threads
APPLY_TILE, APPLY_WARPS = 4096, 4
COMBINE_WARPS = 8
CHANNELS = 64  # channels of a program, at most: 128 bytes in half precision, one line of the cache
CHUNKS = 1024  # parts of an image whose statistics are taken by different programs, at most
MOMENTS = 8192  # that one program combines, at most


@triton.jit
def _moments(
    x,
    bias,
    means,
    squares,
    pixels,
    channels,
    first_channel,
    all_channels,
    chunk,
    has_bias: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
):
    """Mean and sum of squared deviations of each channel within one chunk of pixels of one image."""
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    column = tl.program_id(2) * width + tl.arange(0, width)
    in_columns = column < channels
    start = part * chunk
    count = tl.minimum(chunk, pixels - start)
    x += (image * pixels + start) * channels
    # Sums are taken around the chunk's first pixel: deviations are small numbers, so that float32 can hold their sum.
    pivot = tl.load(x + column, mask=in_columns, other=0.0).to(tl.float32)
    row = tl.arange(0, rows)
    at = row[:, None] * channels + column[None, :]
    sums = tl.zeros([rows, width], dtype=tl.float32)
    sums_of_squares = tl.zeros([rows, width], dtype=tl.float32)
    for first in range(0, count, rows):
        here = (row < count - first)[:, None] & in_columns[None, :]
        value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
        deviation = tl.where(here, value - pivot[None, :], 0.0)
        sums += deviation  # of each thread's own rows: sums over threads, which have to wait, come after the loop
        sums_of_squares += deviation * deviation
        x += rows * channels
    total, total_of_squares = tl.sum(sums, axis=0), tl.sum(sums_of_squares, axis=0)
    share = 1.0 / count.to(tl.float32)
    mean = pivot + total * share
    if has_bias:
        mean += tl.load(bias + column, mask=in_columns, other=0.0).to(tl.float32)
    out = (image * tl.num_programs(0) + part) * all_channels + first_channel + column
    tl.store(means + out, mean, mask=in_columns)
    tl.store(squares + out, total_of_squares - total * total * share, mask=in_columns)


@triton.jit
def _combine(
    means,
    squares,
    mean_out,
    inverse_out,
    pixels,
    channels,
    chunk,
    chunks,
    eps,
    group: tl.constexpr,
    parts: tl.constexpr,
    width: tl.constexpr,
):
    """Mean and 1 / sqrt(variance + eps) of one group of channels of one image, from the moments of its chunks."""
    number, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    part, column = tl.arange(0, parts), tl.arange(0, width)
    here = (part < chunks)[:, None] & (column < group)[None, :]
    at = (image * chunks + part)[:, None] * channels + number * group + column[None, :]
    count = tl.where(here, tl.minimum(chunk, pixels - part * chunk).to(tl.float32)[:, None], 0.0)
    mean_of_chunk = tl.load(means + at, mask=here, other=0.0)
    square = tl.load(squares + at, mask=here, other=0.0)
    total = pixels.to(tl.float32) * group
    mean = tl.sum(tl.sum(count * mean_of_chunk, axis=1), axis=0) / total
    distance = mean_of_chunk - mean
    variance = tl.sum(tl.sum(square + count * distance * distance, axis=1), axis=0) / total
    out = image * tl.num_programs(0) + number
    tl.store(mean_out + out, mean)
    tl.store(inverse_out + out, 1.0 / tl.sqrt(variance + eps))


@triton.jit
def _apply(
    x,
    bias,
    y,
    mean,
    inverse,
    scale,
    shift,
    pixels,
    channels,
    first_channel,
    all_channels,
    groups,
    columns,
    cell_rows,
    cell_columns,
    scale_image,
    scale_cell,
    shift_image,
    shift_cell,
    height,
    has_bias: tl.constexpr,
    modulated: tl.constexpr,
    one_cell: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
):
    """silu(scale * n + shift), n = (x + bias - mean) * inverse; or n alone: for a tile of pixels and channels."""
    image = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0) * rows
    column = tl.program_id(2) * width + tl.arange(0, width)
    in_columns = column < channels
    here = (tl.arange(0, rows) < pixels - start)[:, None] & in_columns[None, :]
    x += (image * pixels + start) * channels
    y += (image * pixels + start) * all_channels + first_channel
    row = tl.arange(0, rows)[:, None]
    group = image * groups + (first_channel + column) // (all_channels // groups)
    offset = -tl.load(mean + group, mask=in_columns, other=0.0)
    if has_bias:
        offset += tl.load(bias + column, mask=in_columns, other=0.0).to(tl.float32)
    factor = tl.load(inverse + group, mask=in_columns, other=0.0)
    value = (
        tl.load(x + row * channels + column[None, :], mask=here, other=0.0).to(tl.float32) + offset[None, :]
    ) * factor[None, :]
    if modulated:
        scale += image * scale_image + first_channel
        shift += image * shift_image + first_channel
        if one_cell:
            s = tl.load(scale + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
            b = tl.load(shift + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
        else:
            # Nearest cell of each pixel, rounded as in `Modulation.fit`.
            pixel = start + tl.arange(0, rows)
            cell = (pixel // columns * cell_rows // height) * cell_columns + pixel % columns * cell_columns // columns
            cell = cell.to(tl.int64)[:, None]
            s = tl.load(scale + cell * scale_cell + column[None, :], mask=here, other=0.0).to(tl.float32)
            b = tl.load(shift + cell * shift_cell + column[None, :], mask=here, other=0.0).to(tl.float32)
        value = value * s + b
        value = value / (1.0 + tl.exp2(value * -1.4426950408889634))  # a power of two is one instruction
    tl.store(y + row * all_channels + column[None, :], value, mask=here)


def kernel_norm_silu(
    parts: Sequence[Tensor],
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """silu(scale * group_norm(x + bias) + shift), where x are features or several side by side in their channels.

    Args:
        parts: of x, each (B, C_i, H, W), copied to channels-last memory where it is not in it. Features of a skip
            connection need not be concatenated with the others first.
        scale, shift: (B or 1, h, w, C), the last axis contiguous, any h up to H and w up to W.
        groups: G, a divisor of C.
        eps: added to the variance.
        bias: (C,), added to x; with one part only.
        overwrite: whether the result may take the memory of x; with one part only.

    Returns:
        (B, C, H, W), in channels-last memory and x's dtype.
    """
    parts = [part.contiguous(memory_format=torch.channels_last) for part in parts]
    with torch.cuda.device_of(parts[0]):  # Triton starts kernels on the current device, whichever holds the tensors
        mean, inverse = _group_moments(parts, groups, eps, bias)
        y = parts[0] if overwrite and len(parts) == 1 else _empty_like(parts)
        _launch_apply(parts, y, mean, inverse, scale, shift, bias)
    return y


def kernel_normalised(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Returns group_norm(x), like x (B, C, H, W) in channels-last memory, and 1 / sqrt(variance + eps), (B, G)."""
    parts = [x.contiguous(memory_format=torch.channels_last)]
    with torch.cuda.device_of(x):
        mean, inverse = _group_moments(parts, groups, eps, None)
        y = _empty_like(parts)
        _launch_apply(parts, y, mean, inverse, None, None, None)
    return y, inverse


def _empty_like(parts: Sequence[Tensor]) -> Tensor:
    batch, _, height, width = parts[0].shape
    channels = sum(part.shape[1] for part in parts)
    empty = parts[0].new_empty(batch, height, width, channels)
    return empty.permute(0, 3, 1, 2)


def _group_moments(parts: Sequence[Tensor], groups: int, eps: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each group: two (B, G)."""
    batch, _, height, columns = parts[0].shape
    pixels, device, channels = height * columns, parts[0].device, sum(part.shape[1] for part in parts)
    group = channels // groups
    group_width = triton.next_power_of_2(group)
    # Whole tiles in each chunk, and enough chunks for all multiprocessors, but not more than one program can combine.
    most = max(1, min(CHUNKS, MOMENTS // group_width))
    whole = max(_tile(part.shape[1], MOMENTS_TILE)[0] for part in parts)
    chunk = triton.cdiv(triton.cdiv(pixels, most), whole) * whole
    chunks = triton.cdiv(pixels, chunk)
    means, squares = torch.empty(2, batch, chunks, channels, device=device, dtype=torch.float32).unbind()
    mean, inverse = torch.empty(2, batch, groups, device=device, dtype=torch.float32).unbind()
    first = 0
    for part in parts:
        own = part.shape[1]
        rows, width = _tile(own, MOMENTS_TILE)
        _moments[(chunks, batch, triton.cdiv(own, width))](
            *(part, bias, means, squares, pixels, own, first, channels, chunk, bias is not None, rows, width),
            num_warps=MOMENTS_WARPS,
        )
        first += own
    _combine[(groups, batch)](
        *(means, squares, mean, inverse, pixels, channels, chunk, chunks, eps, group),
        *(triton.next_power_of_2(chunks), group_width),
        num_warps=COMBINE_WARPS,
    )
    return mean, inverse


def _launch_apply(
    parts: Sequence[Tensor],
    y: Tensor,
    mean: Tensor,
    inverse: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    bias: Tensor | None,
) -> None:
    batch, channels, height, columns = y.shape
    pixels, groups, first = height * columns, mean.shape[1], 0
    h, w = (1, 1) if scale is None else scale.shape[1:3]
    for part in parts:
        own = part.shape[1]
        rows, width = _tile(own, APPLY_TILE)
        _apply[(triton.cdiv(pixels, rows), batch, triton.cdiv(own, width))](
            *(part, bias, y, mean, inverse, scale, shift, pixels, own, first, channels, groups, columns, h, w),
            *(*_strides(scale), *_strides(shift), height),
            *(bias is not None, scale is not None, h * w == 1, rows, width),
            num_warps=APPLY_WARPS,
        )
        first += own


def _tile(channels: int, elements: int) -> tuple[int, int]:
    """Pixels and channels of a program."""
    divisor = channels & -channels  # the largest power of two that divides them, so that no thread idles
    width = min(CHANNELS, divisor if divisor >= CHANNELS // 2 else triton.next_power_of_2(channels))
    return elements // width, width


def _strides(modulation: Tensor | None) -> tuple[int, int]:
    """Elements from one image to the next (0 where all share it) and from one cell to the next."""
    if modulation is None:
        return 0, 0
    batch, _, w, _ = modulation.shape
    return (modulation.stride(0) if batch > 1 else 0), modulation.stride(2) if w > 1 else modulation.stride(1)
