"""Decoding an image in strips of rows, with the network's own layers: exact, in memory that the strip sets.

The network runs layer by layer over the whole image. Each layer computes one strip after another from maps that lie in
the host's memory or on a disk (see `strips.py`). So every norm has the statistics of the whole image, and a halo is
needed for one layer at a time. What depends on the latent alone is computed for the rows of a strip: for a large image,
the modulations of all blocks together are larger than any feature map.
"""

# C latent channels, F down-scale, H W pixels, h = H / F, w = W / F, p patch side, ch width of the first level

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd_decoder import flow
from ssdd_decoder.attention import attention_biases
from ssdd_decoder.blocks import Downsample, ResnetBlock, TransformerBlock, Upsample
from ssdd_decoder.conditioning import AdaGroupNorm, AdaLayerNorm, TimeProjections, modulations
from ssdd_decoder.config import RADIUS
from ssdd_decoder.convolution import convolve, fold_upsampling, pointwise
from ssdd_decoder.convolution import upsample as upsampled
from ssdd_decoder.modulation import Modulation
from ssdd_decoder.norm import norm_silu_rows
from ssdd_decoder.patches import join
from ssdd_decoder.sampler import euler_sample
from ssdd_decoder.strips import FeatureMap, Workspace, group_statistics, with_halo
from ssdd_decoder.unet import UNet

EXPANSION = 8  # widest features of a transformer block, by its width: its strips are so many times smaller


def decode_in_tiles(
    net: UNet, z: Tensor, noise: Tensor, steps: int, tile: int, progress: Callable[[float], None] | None = None
) -> Tensor:
    """Decodes latents one after another; see `Decoder.decode`.

    Args:
        net: the network, without gradients.
        z: (B, C, h, w), in the weights' dtype.
        noise: (B, 3, H, W).
        steps: of the sampler.
        tile: a strip has about tile x tile pixels.
        progress: called with the part of all work that is done, from 0 to 1.

    Returns:
        (B, 3, H, W), in the noise's dtype.
    """
    images = torch.empty_like(noise)
    finished = 0

    def tell(part: float) -> None:
        if progress is not None:
            progress((finished + part) / (steps * len(z)))

    for i, start in enumerate(noise.split(1)):
        tiled = TiledUNet(net, z[i : i + 1], tile, tell)

        def velocity(x_t: Tensor, t: Tensor, tiled: "TiledUNet" = tiled) -> Tensor:
            nonlocal finished
            result = tiled.predict(x_t, t)
            finished += 1
            return result

        images[i : i + 1] = euler_sample(velocity, start, steps)
    return images


class TiledUNet:
    """The velocity of one image, in strips; made once per latent.

    Args:
        net: the network, whose layers are used.
        z: (1, C, h, w), in the weights' dtype.
        tile: a strip has about tile x tile pixels.
        progress: called after each strip with the part of one step that is done, from 0 to 1.
    """

    def __init__(self, net: UNet, z: Tensor, tile: int, progress: Callable[[float], None] | None = None) -> None:
        self.net, self.config, self.z = net, net.config, z
        self.tile, self.progress = tile, progress
        scale = self.config.downscale // self.config.patch_size
        self.sides = [(z.shape[2] * scale, z.shape[3] * scale)]  # of each level
        for _ in self.config.widths[1:]:
            height, width = self.sides[-1]
            self.sides.append(((height + 1) // 2, (width + 1) // 2))
        self.context = net.ada_ctx_proj(z).permute(0, 2, 3, 1).contiguous()  # (1, h, w, ch)
        self.times = TimeProjections.of(
            [each.time_emb_proj for each in net.resnets()], [each.norm2 for each in net.resnets()]
        )
        self.linear = self._shortcut() if self.config.shortcut else None

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Velocity (1, 3, H, W) at (x_t, t), with x_t (1, 3, H, W) and t (1,)."""
        widths = [resnet.norm2.num_channels for resnet in self.net.resnets()]
        by_time = self.times.modulation(self.net.time_embedding(t)).split(widths)
        with Workspace(self.tile // self.config.patch_size, self._work(), self.progress) as self.space:
            skips = self._down(x_t, by_time)
            h = self._middle(skips[-1])
            image = self._out(self._up(h, skips, by_time), x_t)
        if self.config.prediction == "sample":
            return flow.velocity_from_clean(x_t, image, t)
        return image

    def _work(self) -> float:
        """Features that a step computes, as `Workspace` counts them: two maps for a block, one for other layers."""
        widths, areas = self.config.widths, [height * width for height, width in self.sides]
        blocks = 2 * (2 * self.config.resnets_per_level + 1)
        total = 2 * areas[0] * widths[0]  # the first and the last convolution
        total += sum(blocks * area * channels for area, channels in zip(areas, widths, strict=True))
        total += sum(area * channels for area, channels in zip(areas[1:], widths, strict=False))  # downsampling
        total += sum(area * channels for area, channels in zip(areas, widths[1:], strict=False))  # upsampling
        return total + areas[-1] * widths[-1] * (1 + EXPANSION * self.config.transformer_blocks)

    def _down(self, x_t: Tensor, by_time: Iterator[Modulation]) -> list[FeatureMap]:
        skips = [self.space.fill(lambda top, bottom: self._first_rows(x_t, top, bottom), *self.sides[0])]
        for block, sides in zip(self.net.down_blocks, self.sides, strict=True):
            for resnet in block.resnets:
                skips.append(self._resnet(resnet, [skips[-1]], next(by_time)))
            for downsample in block.downsamplers:
                skips.append(self._downsample(downsample, skips[-1], sides))
        return skips

    def _up(self, h: FeatureMap, skips: list[FeatureMap], by_time: Iterator[Modulation]) -> FeatureMap:
        for block in self.net.up_blocks:
            for resnet in block.resnets:
                sources = [h, skips.pop()]
                h = self._resnet(resnet, sources, next(by_time))
                self.space.free(*sources)
            for upsample in block.upsamplers:
                small, h = h, self._upsample(upsample, h, skips[-1])
                self.space.free(small)
        return h

    def _first_rows(self, x_t: Tensor, top: int, bottom: int) -> Tensor:
        p, (height, width) = self.config.patch_size, self.sides[0]
        first, end = max(0, top - 1), min(height, bottom + 1)
        x = x_t[:, :, first * p : end * p].to(self.z.dtype)
        if p > 1:
            x = F.pixel_unshuffle(x, p)
        cells = self.z.shape[2:]
        rows = _cells(first, end, cells[0], height, self.z.device)
        columns = _cells(0, width, cells[1], width, self.z.device)
        x = torch.cat([x, self.z[:, :, rows][:, :, :, columns]], dim=1).contiguous(memory_format=torch.channels_last)
        return convolve(self.net.conv_in, x)[:, :, top - first : bottom - first]

    def _resnet(self, resnet: ResnetBlock, sources: list[FeatureMap], by_time: Modulation) -> FeatureMap:
        """`ResnetBlock.forward`; the channels of all sources are its input."""
        sides = sources[0].height, sources[0].width
        norm1, norm2 = resnet.norm1, resnet.norm2
        of_input = group_statistics(sources, norm1.groups, norm1.eps)

        def first(top: int, bottom: int) -> Tensor:
            x, above = with_halo(sources, top, bottom)
            modulation = self._modulation(norm1, self.context, top - above, x.shape[2], sides[0])
            return resnet.conv1(norm_silu_rows(x, modulation, of_input))[:, :, above : above + bottom - top]

        middle = self.space.fill(first, *sides)
        of_middle = group_statistics([middle], norm2.num_groups, norm2.eps)

        def second(top: int, bottom: int) -> Tensor:
            h, above = with_halo([middle], top, bottom)
            x, _ = with_halo(sources, top, bottom)
            shortcut = pointwise(resnet.conv_shortcut, x) if hasattr(resnet, "conv_shortcut") else x
            h = norm_silu_rows(h, by_time, of_middle)
            return convolve(resnet.conv2, h, shortcut)[:, :, above : above + bottom - top]

        result = self.space.fill(second, *sides)
        self.space.free(middle)
        return result

    def _downsample(self, layer: Downsample, source: FeatureMap, sides: tuple[int, int]) -> FeatureMap:
        def rows(top: int, bottom: int) -> Tensor:
            x, above = with_halo(
                [source], 2 * top, min(2 * bottom, source.height), halo=2
            )  # even: strides stay in phase
            return layer(x)[:, :, above // 2 : above // 2 + bottom - top]

        return self.space.fill(rows, (sides[0] + 1) // 2, (sides[1] + 1) // 2)

    def _upsample(self, layer: Upsample, source: FeatureMap, skip: FeatureMap) -> FeatureMap:
        kernel = fold_upsampling(layer.conv.weight)

        def rows(top: int, bottom: int) -> Tensor:
            x, above = with_halo([source], top // 2, (bottom + 1) // 2)
            start = 2 * above + top % 2
            return upsampled(x, kernel, layer.conv.bias)[:, :, start : start + bottom - top, : skip.width]

        return self.space.fill(rows, skip.height, skip.width)

    def _middle(self, source: FeatureMap) -> FeatureMap:
        """The transformer. A few maps of the lowest resolution are whole; what is wider than them is in strips."""
        middle, (height, width) = self.net.mid_block, self.sides[-1]
        h = source.rows(0, height)
        x = middle.proj_in(middle.norm(h).permute(0, 2, 3, 1).contiguous())  # (1, N_y, N_x, D)
        context = F.silu(self.context)
        for block in middle.transformer_blocks:
            x = self._transformer(block, x, context)
        h = h + middle.proj_out(x).permute(0, 3, 1, 2)
        return self.space.fill(lambda top, bottom: h[:, :, top:bottom], height, width)

    def _transformer(self, block: TransformerBlock, x: Tensor, context: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        projection, table = block.attn1.projection(), block.relative_position_bias.relative_bias_table
        result = torch.empty_like(x)
        for top, bottom in self.space.strips(height, width, EXPANSION):
            first, end = max(0, top - RADIUS), min(height, bottom + RADIUS)
            biases = attention_biases([table], end - first, width)[0]
            modulation = self._modulation(block.norm1, context, first, end - first, height)
            rows = block(x[:, first:end], modulation, projection, biases)
            result[:, top:bottom] = rows[:, top - first : bottom - first]
            self.space.advance(EXPANSION * (bottom - top) * width * x.shape[3])
        return result

    def _out(self, source: FeatureMap, x_t: Tensor) -> Tensor:
        """Features -> (1, 3, H, W), velocity or clean image."""
        net, config = self.net, self.config
        p, norm = config.patch_size, net.conv_norm_out
        affine = Modulation(norm.weight[None, None, None], norm.bias[None, None, None])
        statistics = group_statistics([source], norm.num_groups, norm.eps)
        halo = 1 + config.overlap + -(-config.refinement_layers // p if config.refinement_channels else 0)
        image = torch.empty_like(x_t)
        for top, bottom in self.space.strips(source.height, source.width):
            rows, above = with_halo([source], top, bottom, halo)
            first, end = (top - above) * p, (top - above + rows.shape[2]) * p
            h = join(net.conv_out(norm_silu_rows(rows, affine, statistics)), p, config.overlap)
            if self.linear is not None:
                h = h + self.linear[:, :, first:end]
            if config.refinement_channels:
                h = net.refinement(h, x_t[:, :, first:end].to(h.dtype))
            image[:, :, top * p : bottom * p] = h[:, :, above * p : (above + bottom - top) * p]
            self.space.advance((bottom - top) * source.width * source.channels)
        return image

    def _shortcut(self) -> Tensor:
        """The shortcut's share of the clean image, (1, 3, H, W)."""
        scale, (height, width) = self.config.downscale, self.z.shape[2:]
        image = self.z.new_empty(1, 3, height * scale, width * scale)
        for top, bottom in Workspace(self.tile // scale).strips(height, width):
            first, end = max(0, top - 1), min(height, bottom + 1)
            rows = join(self.net.shortcut(self.z[:, :, first:end]), scale, self.config.overlap)
            image[:, :, top * scale : bottom * scale] = rows[:, :, (top - first) * scale : (bottom - first) * scale]
        return image

    def _modulation(
        self, norm: AdaGroupNorm | AdaLayerNorm, context: Tensor, first: int, rows: int, height: int
    ) -> Modulation:
        """The modulation of some rows of a map of that height, a row of cells for each."""
        cells = _cells(first, first + rows, self.context.shape[1], height, context.device)
        start, end = int(cells[0]), int(cells[-1]) + 1
        modulation = modulations(context[:, start:end], [norm])
        return Modulation(modulation.scale[:, cells - start], modulation.shift[:, cells - start])


def _cells(start: int, end: int, cells: int, length: int, device: torch.device) -> Tensor:
    """The nearest latent cell of some features along an axis, as in `Modulation.fit`."""
    return torch.arange(start, end, device=device) * cells // length
