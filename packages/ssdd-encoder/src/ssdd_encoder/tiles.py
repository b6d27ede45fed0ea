"""Encoding an image in strips of rows, with the encoder's own layers: exact, in memory that the strip sets.

The network runs layer by layer over the whole image; each layer computes one strip after another (see `strips.py`), so
that every norm has the statistics of the whole image. Attention sees what it would see without strips.
"""

# C channels, F down-scale, H W pixels, h = H / F, w = W / F

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_encoder.blocks import AttnBlock, Downsample, Middle, ResnetBlock, windows
from ssdd_encoder.config import EncoderConfig
from ssdd_encoder.strips import FeatureMap, Workspace, group_statistics, with_halo


def encode_in_tiles(
    encoder: nn.Module, x: Tensor, window: int | None, tile: int, progress: Callable[[float], None] | None = None
) -> Tensor:
    """Encodes images one after another; see `Encoder.forward`.

    Args:
        encoder: an `Encoder`, without gradients.
        x: (B, 3, H, W), in the weights' dtype.
        window: side of the attention's windows, as in `Encoder.forward`.
        tile: a strip has about tile x tile pixels.
        progress: called with the part of all work that is done, from 0 to 1.

    Returns:
        the posteriors' moments, (B, 2 C, h, w).
    """
    moments = []
    for i, image in enumerate(x.split(1)):

        def tell(part: float, done: int = i) -> None:
            if progress is not None:
                progress((done + part) / len(x))

        moments.append(_TiledEncoder(encoder, image, tile, tell).moments(window))
    return torch.cat(moments)


class _TiledEncoder:
    """One image (1, 3, H, W) on its way through the encoder."""

    def __init__(self, encoder: Any, image: Tensor, tile: int, progress: Callable[[float], None]) -> None:
        self.net, self.image = encoder, image
        self.config = cast("EncoderConfig", encoder.config)
        work = _work(self.config, image.shape[2] * image.shape[3])
        self.space = Workspace(tile // self.config.patch_size, work, progress)

    def moments(self, window: int | None) -> Tensor:
        """(1, 2 C, h, w)."""
        with self.space:
            p = self.config.patch_size
            h = self.space.fill(self._first_rows, self.image.shape[2] // p, self.image.shape[3] // p)
            for level in self.net.down:
                for block in level.block:
                    h = self._replace(h, self._resnet(block, h))
                if hasattr(level, "downsample"):
                    h = self._replace(h, self._downsample(level.downsample, h))
            h = self._middle(self.net.mid, h, window)
            return self._last(h).rows(0, h.height)

    def _replace(self, old: FeatureMap, new: FeatureMap) -> FeatureMap:
        self.space.free(old)
        return new

    def _first_rows(self, top: int, bottom: int) -> Tensor:
        p, height = self.config.patch_size, self.image.shape[2]
        first, end = max(0, (top - 1) * p), min(height, (bottom + 1) * p)
        x = self.image[:, :, first:end]
        h = self.net.conv_in(F.pixel_unshuffle(x, p) if p > 1 else x)
        return cast("Tensor", h)[:, :, top - first // p : bottom - first // p]

    def _resnet(self, block: ResnetBlock, source: FeatureMap) -> FeatureMap:
        """`ResnetBlock.forward`."""
        sides = source.height, source.width
        of_input = _affine(block.norm1, source)

        def first(top: int, bottom: int) -> Tensor:
            x, above = with_halo([source], top, bottom)
            return block.conv1(F.silu(_normalise(x, of_input), inplace=True))[:, :, above : above + bottom - top]

        middle = self.space.fill(first, *sides)
        of_middle = _affine(block.norm2, middle)

        def second(top: int, bottom: int) -> Tensor:
            h, above = with_halo([middle], top, bottom)
            h = block.conv2(F.silu(_normalise(h, of_middle), inplace=True))[:, :, above : above + bottom - top]
            x = source.rows(top, bottom)
            return h + (block.nin_shortcut(x) if hasattr(block, "nin_shortcut") else x)

        result = self.space.fill(second, *sides)
        self.space.free(middle)
        return result

    def _downsample(self, layer: Downsample, source: FeatureMap) -> FeatureMap:
        def rows(top: int, bottom: int) -> Tensor:
            x = source.rows(2 * top, min(2 * bottom + 1, source.height))  # the row below stands where padding would
            return layer(x)[:, :, : bottom - top]

        return self.space.fill(rows, source.height // 2, source.width // 2)

    def _middle(self, middle: Middle, h: FeatureMap, window: int | None) -> FeatureMap:
        h = self._replace(h, self._resnet(middle.block_1, h))
        if hasattr(middle, "attn_1"):
            h = self._replace(h, self._attention(middle.attn_1, h, window))
        return self._replace(h, self._resnet(middle.block_2, h))

    def _attention(self, block: AttnBlock, source: FeatureMap, window: int | None) -> FeatureMap:
        """`AttnBlock.forward`: a row of windows at a time, or the whole map if there are none."""
        height, width = source.height, source.width
        reach = block.reach(height, width, window)
        if reach is None:
            whole = block(source.rows(0, height))
            return self.space.fill(lambda top, bottom: whole[:, :, top:bottom], height, width)
        affine = _affine(block.norm, source)
        bands = [(row, row + side) for top, bottom, side in windows(height, reach) for row in range(top, bottom, side)]

        def rows(top: int, bottom: int) -> Tensor:
            x = source.rows(top, bottom)
            return block.of_window_rows(x, _normalise(x.clone(), affine), reach)

        return self.space.fill(rows, height, width, bands)

    def _last(self, source: FeatureMap) -> FeatureMap:
        net, scale = self.net, self.config.downscale
        affine = _affine(net.norm_out, source)

        def rows(top: int, bottom: int) -> Tensor:
            h, above = with_halo([source], top, bottom)
            h = net.conv_out(F.silu(_normalise(h, affine), inplace=True))[:, :, above : above + bottom - top]
            moments = net.out_proj(h)
            if self.config.shortcut:
                linear = net.shortcut(F.pixel_unshuffle(self.image[:, :, top * scale : bottom * scale], scale))
                moments = moments + F.pad(linear, (0, 0, 0, 0, 0, linear.shape[1]))
            return cast("Tensor", moments)

        return self.space.fill(rows, source.height, source.width)


def _affine(norm: nn.GroupNorm, source: FeatureMap) -> tuple[Tensor, Tensor]:
    """Scale and shift of each channel, (1, C, 1, 1), that normalise a map."""
    mean, inverse = group_statistics([source], norm.num_groups, norm.eps)
    scale = inverse * norm.weight
    shift = norm.bias - mean * scale
    return scale[:, :, None, None], shift[:, :, None, None]


def _normalise(x: Tensor, affine: tuple[Tensor, Tensor]) -> Tensor:
    """Normalises rows in place."""
    scale, shift = (each.to(x.dtype) for each in affine)
    return torch.addcmul(shift, x, scale, out=x)


def _work(config: EncoderConfig, pixels: int) -> float:
    """Features that are computed, as `Workspace` counts them: two maps for a block, one for other layers."""
    area, total = pixels / config.patch_size**2, 0.0
    widths = config.widths
    total += area * widths[0]
    for level, width in enumerate(widths):
        total += 2 * config.resnets_per_level * area * width
        if level < len(widths) - 1:
            area /= 4
            total += area * width
    return total + area * ((4 + config.attention) * widths[-1] + 2 * config.latent_channels)
