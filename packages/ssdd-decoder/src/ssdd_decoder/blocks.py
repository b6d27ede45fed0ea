"""The pieces of the network: residual block, transformer block, down- and upsampling. Names are the published ones."""

# B batch, C channels, H W feature map or token grid, D = token width, K heads

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder.attention import Attention, RelativePositionBias, TileBiases
from ssdd_decoder.conditioning import AdaGroupNorm, AdaLayerNorm
from ssdd_decoder.convolution import convolve, pointwise, upsample
from ssdd_decoder.gpu import prefers_joint_kernel, prefers_kernel
from ssdd_decoder.linear import Linear
from ssdd_decoder.modulation import Modulation
from ssdd_decoder.norm import norm_silu


class ResnetBlock(nn.Module):
    """Convolutional residual block, modulated by the latent before its first convolution, by time before its second."""

    def __init__(self, in_channels: int, out_channels: int, context_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = AdaGroupNorm(groups, in_channels, context_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * context_channels, 2 * out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=1e-5)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, modulation: Modulation, by_time: Modulation, skip: Tensor | None = None) -> Tensor:
        """(B, C_in, H, W), of which a skip connection may be the last channels -> (B, C_out, H, W).

        The first norm is modulated by latent cell, the second by time alone (with its own weight and bias included).
        """
        by_kernel = prefers_kernel(x)
        if by_kernel and skip is not None and hasattr(self, "conv_shortcut"):
            shortcut = pointwise(self.conv_shortcut, x, skip)
            h = self.norm1(x, modulation, skip=skip)
        else:
            x = x if skip is None else torch.cat([x, skip], dim=1)
            shortcut = pointwise(self.conv_shortcut, x) if hasattr(self, "conv_shortcut") else x
            # x may be overwritten only if it was concatenated here and is not the shortcut, which is added below.
            h = self.norm1(x, modulation, overwrite=skip is not None and shortcut is not x)
        groups, eps = self.norm2.num_groups, self.norm2.eps
        if by_kernel:  # the bias is added by the norm, in the pass that it makes anyway
            h = F.conv2d(h, self.conv1.weight, padding=1)
            h = norm_silu(h, by_time, groups, eps, overwrite=True, bias=self.conv1.bias)
        else:
            h = norm_silu(self.conv1(h), by_time, groups, eps, overwrite=True)
        return convolve(self.conv2, h, shortcut)


class GEGLU(nn.Module):
    """value * gelu(gate), both linear in the input (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., hidden)."""
        x = self.proj(x)
        if prefers_joint_kernel(x):
            from ssdd_decoder.pointwise_kernels import geglu  # takes a second to import, and CPUs never need it

            return geglu(x)
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GEGLU to four times the width, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj_in_act = GEGLU(width, 4 * width)
        self.proj_out = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.proj_out(self.proj_in_act(x))


class TransformerBlock(nn.Module):
    """Local attention, then feed-forward, each on a normalised input and added to it."""

    def __init__(self, width: int, heads: int, context_channels: int) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(width, context_channels)
        self.attn1 = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-5)
        self.ff = FeedForward(width)
        self.relative_position_bias = RelativePositionBias(heads)

    def forward(self, x: Tensor, modulation: Modulation, projection: Tensor, biases: TileBiases) -> Tensor:
        """Tokens (B, H, W, D) -> (B, H, W, D), with the attention's projection (3 D, D) and its biases."""
        x = x + self.attn1(self.norm1(x, modulation), projection, biases)
        return x + self.ff(self.norm2(x))


class Downsample(nn.Module):
    """Stride-2 3x3 convolution; an odd side is rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2))."""
        return convolve(self.conv, x)


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, folded: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2 H, 2 W), with the kernel of `fold_upsampling`."""
        return upsample(x, folded, self.conv.bias)
