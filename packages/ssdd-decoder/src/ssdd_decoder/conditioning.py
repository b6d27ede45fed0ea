"""Latent and time steer the network: the embeddings, the norms that they modulate, and the work that steps share.

Everything that depends on the latent alone is computed once per decode and kept at latent resolution.
"""

# B batch, C channels, H W feature map, h w latent cells, D token width; maps are channels-last: (B, H, W, C)

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder.attention import TileBiases
from ssdd_decoder.linear import linear
from ssdd_decoder.modulation import Modulation, may_overwrite
from ssdd_decoder.norm import norm_silu

TIME_SCALE = 1000.0  # the published network is called with 1000 t
MAX_PERIOD = 10_000.0


@dataclass(frozen=True)
class TimeProjections:
    """The residual blocks' linear layers of the time embedding, and the affine norms that they modulate.

    Side by side, so that a step computes them in one matrix product: their kernels take less time than their launch.

    Args:
        weight: (2 C, 4 ch), rows of all scales, then of all shifts.
        bias: (2 C,).
        norm_weight, norm_bias: (C,).
    """

    weight: Tensor
    bias: Tensor
    norm_weight: Tensor
    norm_bias: Tensor

    @classmethod
    def of(cls, layers: Sequence[nn.Linear], norms: Sequence[nn.GroupNorm]) -> "TimeProjections":
        """Collects the weights of each block's layer and norm."""
        scales, shifts = zip(*(layer.weight.chunk(2) for layer in layers), strict=True)
        scale_biases, shift_biases = zip(*(layer.bias.chunk(2) for layer in layers), strict=True)
        return cls(
            torch.cat(scales + shifts),
            torch.cat(scale_biases + shift_biases),
            torch.cat([norm.weight for norm in norms]),
            torch.cat([norm.bias for norm in norms]),
        )

    def modulation(self, time: Tensor) -> Modulation:
        """Folds scale and shift by time into the affine part of the norms: (B or 1, 4 ch) -> one cell, C channels."""
        scale, shift = F.linear(time, self.weight, self.bias).chunk(2, dim=1)
        scale = 1 + scale
        weight, bias = self.norm_weight * scale, torch.addcmul(shift, self.norm_bias, scale)
        return Modulation(weight[:, None, None], bias[:, None, None])


@dataclass(frozen=True)
class Conditioning:
    """Everything that depends on neither the noisy image nor the time: computed once per decode, used in every step.

    Args:
        latent: (B, C, H / p, W / p), upsampled (p is the patch size).
        resnets: modulations of the residual blocks' first norms, down then up, side by side in their channels.
        times: the weights that modulate the second norms by time, likewise.
        transformer: modulations of the transformer blocks, likewise.
        projections: weights of q, k and v of each transformer block, (3 D, D).
        biases: attention biases of each transformer block.
        folded: kernel of each upsampling.
        linear: (B, 3, H, W), the shortcut's share of the clean image, or None.
    """

    latent: Tensor
    resnets: Modulation
    times: TimeProjections
    transformer: Modulation
    projections: list[Tensor]
    biases: Sequence[TileBiases]
    folded: list[Tensor]
    linear: Tensor | None = None


class TimeEmbedding(nn.Module):
    """Sinusoid of 1000 t, then two linear layers; always in float32, since bfloat16 cannot tell 999 from 1000."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) in [0, 1] -> (B, 4 ch), SiLU applied, in the weights' dtype."""
        weight = self.linear_1.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        h = sinusoid(TIME_SCALE * t.to(torch.promote_types(t.dtype, torch.float32)), self.channels).to(dtype)
        with torch.autocast(t.device.type, enabled=False):
            h = F.linear(h, weight.to(dtype), self.linear_1.bias.to(dtype))
            h = F.linear(F.silu(h), self.linear_2.weight.to(dtype), self.linear_2.bias.to(dtype))
        return F.silu(h).to(weight.dtype)


def sinusoid(position: Tensor, channels: int) -> Tensor:
    """[cos(p f_k), sin(p f_k)] with f_k = 10000^(-k / (channels / 2)): (B,) -> (B, channels), in float32."""
    half = channels // 2
    exponent = -math.log(MAX_PERIOD) * torch.arange(half, device=position.device, dtype=torch.float32) / half
    phase = position.float()[:, None] * exponent.exp()
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class AdaGroupNorm(nn.Module):
    """GroupNorm whose scale and shift come from the latent's context, then SiLU."""

    def __init__(self, groups: int, channels: int, context_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.channels, self.eps = groups, channels, eps
        self.ctx_proj = nn.Conv2d(context_channels, 2 * channels, 1)

    def projections(self) -> tuple[Tensor, ...]:
        """Weight (C, ch) and bias (C,) of the scale, then of the shift."""
        scale, shift = self.ctx_proj.weight.flatten(1).chunk(2)
        scale_bias, shift_bias = cast("Tensor", self.ctx_proj.bias).chunk(2)
        return scale, scale_bias, shift, shift_bias

    def forward(self, x: Tensor, modulation: Modulation, overwrite: bool = False, skip: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W), SiLU applied, in channels-last memory.

        `overwrite` allows the loss of x. Where `prefers_kernel`, `skip` may hold the last of the C channels.
        """
        return norm_silu(x, modulation, self.groups, self.eps, overwrite, skip=skip)


class AdaLayerNorm(nn.Module):
    """LayerNorm whose shift and scale (in this order) come from the latent's context, SiLU applied."""

    def __init__(self, channels: int, context_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        self.linear = nn.Linear(context_channels, 2 * channels)

    def projections(self) -> tuple[Tensor, ...]:
        """Weight (C, ch) and bias (C,) of the scale, then of the shift."""
        shift, scale = self.linear.weight.chunk(2)
        shift_bias, scale_bias = self.linear.bias.chunk(2)
        return scale, scale_bias, shift, shift_bias

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Tokens (B, H, W, D) -> (B, H, W, D)."""
        return modulation.apply(F.layer_norm(x, (self.channels,), eps=self.eps), may_overwrite())


def modulations(context: Tensor, norms: Sequence[AdaGroupNorm | AdaLayerNorm]) -> Modulation:
    """Projects the context (B, h, w, ch) for all norms in one matrix product: their modulations, side by side."""
    if not norms:
        return Modulation(context[..., :0], context[..., :0])
    scales, scale_biases, shifts, shift_biases = zip(*(norm.projections() for norm in norms), strict=True)
    maps = linear(context, torch.cat(scales + shifts), torch.cat(scale_biases + shift_biases))
    scale, shift = maps.tensor_split(2, dim=-1)
    # Not split here: with dozens of views as its arguments, a compiled step takes minutes to compile for a second size.
    return Modulation(1 + scale, shift)
