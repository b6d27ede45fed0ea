"""The decoder in its plainest form: the same weights and results, without SSDD's optimisations.

Every transformer block builds the bias of all pairs of tokens; every step projects the context again and upsamples it
to the features; upsampling makes four times the pixels before its convolution. Convolutions, matrix products, attention
and memory format are PyTorch's best, as for all decoders compared.

Benchmarks compare it, and `export_forms.py` makes exported graphs of it, with another attention.
"""

# B batch, C channels, H W feature map, N = H W tokens, K heads

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder import Decoder
from ssdd_decoder.blocks import ResnetBlock, TransformerBlock
from ssdd_decoder.config import RADIUS
from ssdd_decoder.patches import join
from ssdd_decoder.times import sampling_grid


class DenseForm(nn.Module):
    """Computes the same as a decoder, in the plainest form.

    Args:
        decoder: shares its weights.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, x_t: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Returns the velocity (B, 3, H, W) of x_t (B, 3, H, W) at t (B,), conditioned on z (B, C, h, w)."""
        return self.velocity(x_t, t, self.decoder.time_embedding(t), z)

    def velocity(self, x_t: Tensor, t: Tensor, time: Tensor, z: Tensor) -> Tensor:
        """The same, given the embedding of the time, (B or 1, 4 ch)."""
        net, config = self.decoder, self.decoder.config
        context = net.ada_ctx_proj(z)
        x = F.pixel_unshuffle(x_t, config.patch_size)
        x = torch.cat([x, F.interpolate(z, x.shape[2:])], dim=1)
        h = net.conv_in(x.contiguous(memory_format=torch.channels_last))
        skips = [h]
        for block in net.down_blocks:
            for resnet in block.resnets:
                h = _resnet(resnet, h, time, context)
                skips.append(h)
            for downsample in block.downsamplers:
                h = self.halve(downsample.conv, h)
                skips.append(h)
        h = self._middle(h, context)
        for up in net.up_blocks:
            for resnet in up.resnets:
                h = _resnet(resnet, torch.cat([h, skips.pop()], dim=1), time, context)
            for upsample in up.upsamplers:
                height, width = skips[-1].shape[2:]  # odd sides were rounded up on the way down
                h = upsample.conv(F.interpolate(h, scale_factor=2.0))[:, :, :height, :width]
        h = self.join(net.conv_out(F.silu(net.conv_norm_out(h))), config.patch_size, config.overlap)
        if config.shortcut:
            h = h + self.join(net.shortcut(z), config.downscale, config.overlap)
        if config.refinement_channels:
            h = net.refinement(h, x_t)
        return h if config.prediction == "velocity" else (h - x_t) / t.clamp(min=0.05)[:, None, None, None]

    @torch.no_grad()
    def decode(self, z: Tensor, steps: int, noise: Tensor) -> Tensor:
        """Decodes latents (B, C, h, w) into images (B, 3, H, W), in Euler steps from noise (B, 3, H, W)."""
        dtype = self.decoder.conv_in.weight.dtype
        z, x = z.to(dtype), noise
        for t, s in pairwise(torch.tensor(sampling_grid(steps), device=z.device)):
            # x keeps the noise's dtype: in bfloat16 the sum over steps would lose the small ones.
            x = x + (t - s) * self(x.to(dtype), t.expand(len(z)), z).to(x.dtype)
        return x

    def join(self, patches: Tensor, side: int, overlap: bool) -> Tensor:
        """Makes images of patches: see `ssdd_decoder.patches.join`."""
        return join(patches, side, overlap)

    def halve(self, convolution: nn.Conv2d, h: Tensor) -> Tensor:
        """Halves the sides of features, an odd one rounded up."""
        return convolution(h)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, table: Tensor, height: int, width: int) -> Tensor:
        """Local attention, q, k and v (B, K, N, d) -> (B, K, N, d), with a table of biases (15, 15, K)."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=dense_bias(table, height, width)[None].to(q.dtype))

    def _middle(self, h: Tensor, context: Tensor) -> Tensor:
        middle, (height, width) = self.decoder.mid_block, h.shape[2:]
        x = _linear(middle.proj_in, middle.norm(h).flatten(2).transpose(1, 2))  # (B, N, C)
        for block in middle.transformer_blocks:
            x = self._transformer(block, x, context, height, width)
        return h + _linear(middle.proj_out, x).transpose(1, 2).reshape(h.shape)

    def _transformer(self, block: TransformerBlock, x: Tensor, context: Tensor, height: int, width: int) -> Tensor:
        modulation = _linear(block.norm1.linear, F.silu(context).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        shift, scale = F.interpolate(modulation, (height, width)).flatten(2).transpose(1, 2).chunk(2, dim=2)
        h = F.layer_norm(x, x.shape[2:], eps=block.norm1.eps) * (1 + scale) + shift
        attention = block.attn1
        q, k, v = (
            _linear(part, h).unflatten(2, (attention.heads, -1)).transpose(1, 2)
            for part in (attention.to_q, attention.to_k, attention.to_v)
        )
        h = self.attend(q, k, v, block.relative_position_bias.relative_bias_table, height, width)
        x = x + _linear(attention.out_proj, h.transpose(1, 2).flatten(2))
        value, gate = _linear(block.ff.proj_in_act.proj, block.norm2(x)).chunk(2, dim=2)
        return x + _linear(block.ff.proj_out, value * F.gelu(gate))


def _resnet(block: ResnetBlock, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
    scale, shift = F.interpolate(block.norm1.ctx_proj(context), x.shape[2:]).chunk(2, dim=1)
    h = F.group_norm(x, block.norm1.groups, eps=block.norm1.eps) * (1 + scale) + shift
    h = block.norm2(block.conv1(F.silu(h)))
    scale, shift = block.time_emb_proj(time)[:, :, None, None].chunk(2, dim=1)
    h = block.conv2(F.silu(h * (1 + scale) + shift))
    return h + (block.conv_shortcut(x) if hasattr(block, "conv_shortcut") else x)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def dense_bias(table: Tensor, height: int, width: int) -> Tensor:
    """Returns the attention bias of all pairs of tokens: (15, 15, K) -> (K, N, N), -inf outside the window."""
    rows, columns = (_offsets(length, table.device) for length in (height, width))
    # N x N entries for a window of 15 x 15: this is the cost that the windowed attention of SSDD avoids.
    near = _pairs([rows.abs() <= RADIUS, columns.abs() <= RADIUS]).all(dim=-1)
    row, column = _pairs([rows.clamp(-RADIUS, RADIUS) + RADIUS, columns.clamp(-RADIUS, RADIUS) + RADIUS]).unbind(-1)
    return table[row, column].masked_fill(~near[..., None], float("-inf")).permute(2, 0, 1)


def _offsets(length: int, device: torch.device) -> Tensor:
    place = torch.arange(length, device=device)
    return place[:, None] - place


def _pairs(axes: Sequence[Tensor]) -> Tensor:
    """Combines values of the pairs along each axis, (H, H) and (W, W), for all pairs of tokens: (N, N, 2)."""
    rows, columns = axes
    shape = (rows.shape[0], columns.shape[0], rows.shape[0], columns.shape[0])
    both = [rows[:, None, :, None].expand(shape), columns[None, :, None, :].expand(shape)]
    return torch.stack(both, dim=-1).flatten(2, 3).flatten(0, 1)
