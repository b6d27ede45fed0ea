"""Encoder and decoder as graphs for any size: the same numbers, without a branch on the size or an operator of our own.

A tracer takes a branch on the size for a constant. So attention has one kind of tile, whatever the grid, and what lies
outside of the grid is masked. Times are constants, for the number of steps is one.
"""

# B batch, D token width, K heads, d = D / K, H W token grid, T tiles of 8 x 8; F down-scale, s pixels per cell and side

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd.encoders import AnyEncoder
from ssdd.integrations.dense_decoder import DenseForm
from ssdd_decoder import Decoder
from ssdd_decoder.config import RADIUS, WINDOW
from ssdd_decoder.flow import draw_noise, euler_step
from ssdd_decoder.times import sampling_times
from ssdd_encoder import Encoder
from ssdd_encoder.blocks import AttnBlock

TILE = 8  # not below RADIUS, so that a query sees no further than into the next tile
NOISE_SIDE = 256  # pixels of the noise that a graph holds, which repeats
MASKED = -1e30  # of scores: minus infinity would make NaN of a row that is all masked


class DecoderForm(DenseForm):
    """Decodes in a fixed number of steps, as a graph for any size.

    Args:
        decoder: shares its weights.
        steps: of the sampler.
        seed: of noise that the graph holds: 256 x 256 pixels, repeated; without a seed, noise is an input.
    """

    embedded: Tensor  # times, (steps, 1, 4 ch)
    window_index: Tensor
    own_noise: Tensor | None

    def __init__(self, decoder: Decoder, steps: int, seed: int | None = None) -> None:
        super().__init__(decoder)
        self.steps = steps
        self.times = sampling_times(steps).tolist()
        with torch.no_grad():
            embedded = [decoder.time_embedding(torch.tensor([t])) for t in self.times[:-1]]
        self.register_buffer("embedded", torch.stack(embedded), persistent=False)
        self.register_buffer("window_index", _window_index(), persistent=False)
        noise = None
        if seed is not None:
            like = torch.zeros(1)
            noise = draw_noise((1, 3, NOISE_SIDE, NOISE_SIDE), like, torch.Generator().manual_seed(seed))
        self.register_buffer("own_noise", noise, persistent=False)

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Latents (B, C, h, w), and noise (B, 3, H, W) if the graph holds none -> images (B, 3, H, W)."""
        x = self.noise_for(z) if noise is None else noise
        for i, (t, s) in enumerate(pairwise(self.times)):
            time = torch.full((1,), t, dtype=z.dtype)
            x = euler_step(x, self.velocity(x, time, self.embedded[i], z), t, s)
        return x

    def noise_for(self, z: Tensor) -> Tensor:
        """The noise that the graph holds, for latents (B, C, h, w): (B, 3, H, W)."""
        height, width = (side * self.decoder.config.downscale for side in z.shape[2:])
        assert self.own_noise is not None
        rows, columns = (torch.arange(side) % NOISE_SIDE for side in (height, width))
        return self.own_noise.index_select(2, rows).index_select(3, columns).expand(z.shape[0], -1, -1, -1)

    def join(self, patches: Tensor, side: int, overlap: bool) -> Tensor:
        """Adds overlapping patches by quarters; `ssdd_decoder.patches.overlap_add` uses an operator that few know."""
        if not overlap:
            return super().join(patches, side, overlap)
        window = 1 - torch.arange(0.5 - side, side, dtype=patches.dtype).abs() / side  # (2 s,)
        weighted = patches.unflatten(1, (3, 2 * side, 2 * side)) * (window[:, None] * window)[:, :, None, None]
        quarters = weighted.unflatten(3, (2, side)).unflatten(2, (2, side))  # (B, 3, 2, s, 2, s, h, w)
        image: Tensor | float = 0.0
        for down in (0, 1):
            for right in (0, 1):
                part = F.pixel_shuffle(quarters[:, :, down, :, right].flatten(1, 3), side)
                image = image + F.pad(part, [right * side, (1 - right) * side, down * side, (1 - down) * side])
        assert isinstance(image, Tensor)
        half = side // 2
        image = image[:, :, half:-half, half:-half]
        rows, columns = (_coverage(window, cells) for cells in patches.shape[2:])
        return image / (rows[:, None] * columns)

    def halve(self, convolution: nn.Conv2d, h: Tensor) -> Tensor:
        """Halves the sides of features; pads even ones so that a tracer sees that the result is exactly a half."""
        config = self.decoder.config
        if config.downscale // config.patch_size % 2 ** (len(config.widths) - 1):
            return convolution(h)  # sides may be odd
        return F.conv2d(F.pad(h, [1, 0, 1, 0]), convolution.weight, convolution.bias, stride=2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor, height: int, width: int) -> Tensor:
        """Local attention in tiles of 8 x 8 queries, each with the 24 x 24 keys of its own and the next tiles."""
        rows, columns = (height + TILE - 1) // TILE, (width + TILE - 1) // TILE
        inside = torch.ones(1, 1, height, width, 1, dtype=q.dtype)
        grid = (height, width)
        q = _tiled(q.unflatten(2, grid), rows, columns, 0)
        q = _permuted(q, 0, 1, 2, 4, 3, 5, 6).flatten(4, 5)  # (B, K, rows, columns, 64, d)
        k, v = (_surroundings(part.unflatten(2, grid), rows, columns) for part in (k, v))
        masked = (1 - _surroundings(inside, rows, columns).squeeze(5)) * MASKED  # (1, 1, rows, columns, 576)
        entries = F.pad(table.flatten(0, 1), (0, 0, 0, 1), value=MASKED)  # (226, K)
        bias = entries[self.window_index].permute(2, 0, 1)[:, None, None]  # (K, 1, 1, 64, 576)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias + masked[:, :, :, :, None]
        out = scores.softmax(dim=-1) @ v  # (B, K, rows, columns, 64, d)
        out = _permuted(out.unflatten(4, (TILE, TILE)), 0, 1, 2, 4, 3, 5, 6)
        # Not by slices, for which a tracer asks by the size whether anything is cut off.
        whole = out.flatten(4, 5).flatten(2, 3)
        return whole.index_select(2, torch.arange(height)).index_select(3, torch.arange(width)).flatten(2, 3)


class EncoderForm(nn.Module):
    """Encodes, as a graph for any size.

    Args:
        encoder: shares its weights.
    """

    def __init__(self, encoder: AnyEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [-1, 1] -> mean and logvar of the posterior, (B, C, h, w) each."""
        if not isinstance(self.encoder, Encoder):
            posterior = self.encoder(x, check_finite=False, check_range=False)
            return posterior.mean, posterior.logvar
        net, config = self.encoder, self.encoder.config
        h = net.conv_in(F.pixel_unshuffle(x, config.patch_size) if config.patch_size > 1 else x)
        for level in net.down:
            h = level(h)
        h = net.mid.block_1(h)
        if config.attention_window is not None:
            h = _attend_in_windows(net.mid.attn_1, h, config.attention_window)
        elif config.attention:
            h = _attend_everywhere(net.mid.attn_1, h)
        h = net.mid.block_2(h)
        mean, logvar = net.out_proj(net.conv_out(F.silu(net.norm_out(h)))).chunk(2, dim=1)
        if config.shortcut:
            mean = mean + net.shortcut(F.pixel_unshuffle(x, config.downscale))
        return mean, logvar.clamp(-30.0, 20.0)


def _window_index() -> Tensor:
    """Index into the flat table of biases, and behind its end outside the window: (64 queries, 576 keys)."""
    offset = torch.arange(TILE)[:, None] - (torch.arange(3 * TILE) - TILE) + RADIUS  # (8, 24)
    row, column = offset[:, None, :, None], offset[None, :, None, :]
    near = (row >= 0) & (row < WINDOW) & (column >= 0) & (column < WINDOW)
    return torch.where(near, row * WINDOW + column, WINDOW * WINDOW).flatten(2).flatten(0, 1)


def _tiled(x: Tensor, rows: int, columns: int, border: int) -> Tensor:
    """Pads (B, K, H, W, d) to tiles, with a border of so many: (B, K, rows + 2 border, 8, columns + 2 border, 8, d)."""
    height, width = x.shape[2:4]
    before = border * TILE
    x = F.pad(x, [0, 0, before, before + columns * TILE - width, before, before + rows * TILE - height])
    return x.unflatten(3, (-1, TILE)).unflatten(2, (-1, TILE))


def _surroundings(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, K, H, W, d) -> (B, K, rows, columns, 576, d): each tile with the eight around it, zeros outside the grid."""
    x = _tiled(x, rows, columns, 1)
    x = torch.cat([x[:, :, i : i + rows] for i in range(3)], dim=3)  # (B, K, rows, 24, columns + 2, 8, d)
    x = torch.cat([x[:, :, :, :, i : i + columns] for i in range(3)], dim=5)  # (B, K, rows, 24, columns, 24, d)
    return _permuted(x, 0, 1, 2, 4, 3, 5, 6).flatten(4, 5)


def _permuted(x: Tensor, *dimensions: int) -> Tensor:
    """Permutes, and copies in any case: a tracer would ask by the size whether a view will do."""
    return x.permute(dimensions).clone(memory_format=torch.contiguous_format)


def _coverage(window: Tensor, cells: int) -> Tensor:
    """Sum of the windows along an axis: (cells s,)."""
    side = window.shape[0] // 2
    half = side // 2
    inner = torch.ones(cells * side - side, dtype=window.dtype)
    return torch.cat([window[half:side], inner, window[side : side + half]])


def _attend_everywhere(block: AttnBlock, x: Tensor) -> Tensor:
    """The encoder's attention over the whole map: (B, C, H, W)."""
    h = block.norm(x)
    q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (block.q, block.k, block.v))  # (B, N, C)
    out = (q @ k.transpose(1, 2) * x.shape[1] ** -0.5).softmax(dim=-1) @ v
    return x + block.proj_out(out.transpose(1, 2).unflatten(2, x.shape[2:]))


def _attend_in_windows(block: AttnBlock, x: Tensor, most: int) -> Tensor:
    """The encoder's attention within windows, all of them filled up to `most` cells a side: (B, C, H, W)."""
    (rows, in_row, row_of), (columns, in_column, column_of) = (_windows(length, most) for length in x.shape[2:])
    h = block.norm(x)
    qkv = torch.stack([block.q(h), block.k(h), block.v(h)])  # (3, B, C, H, W)
    qkv = qkv.index_select(3, rows).index_select(4, columns)
    down, across = rows.shape[0] // most, columns.shape[0] // most
    shape = (3, x.shape[0], x.shape[1], down, most, across, most)
    q, k, v = _permuted(qkv.reshape(shape), 0, 1, 3, 5, 4, 6, 2).flatten(4, 5)  # (B, down, across, most^2, C)
    inside = in_row.reshape(down, 1, most, 1) * in_column.reshape(1, across, 1, most)
    masked = ((1 - inside) * MASKED).flatten(2, 3)[:, :, None]  # (down, across, 1, most^2)
    scores = q @ k.transpose(-1, -2) * x.shape[1] ** -0.5 + masked
    out = _permuted((scores.softmax(dim=-1) @ v).unflatten(3, (most, most)), 0, 5, 1, 3, 2, 4)
    out = out.flatten(4, 5).flatten(2, 3).index_select(2, row_of).index_select(3, column_of)
    return x + block.proj_out(out)


def _windows(length: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts an axis as `ssdd_encoder.blocks` does, into the fewest windows; their sides differ by one at the most.

    Returns:
        for each place of all windows the position there, and 1 or, where it only fills up, 0; and for each position its
        place.
    """
    count = (length + most - 1) // most
    side, larger = length // count, length % count
    window, place, position = torch.arange(count), torch.arange(most), torch.arange(length)
    start = window * side + window.clamp(max=larger)
    filled = place < side + (window < larger).long()[:, None]  # (count, most)
    positions = (start[:, None] + place).clamp(max=length - 1)
    end = larger * (side + 1)
    of = torch.where(position < end, position // (side + 1), larger + (position - end) // side)
    return positions.flatten(), filled.flatten().float(), of * most + position - start[of]
