"""The KL autoencoder's decoder as serving engines run it: the same weights and results, fewer passes over memory.

GroupNorm and SiLU are one function of two passes, which also adds the bias of the convolution before it; nearest x2 and
a 3x3 convolution are one transposed convolution; and features are channels-last. SSDD's own code does all of it, so
that both decoders get the same care.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder.convolution import convolve, fold_upsampling, pointwise, upsample
from ssdd_decoder.gpu import prefers_kernel
from ssdd_decoder.modulation import Modulation
from ssdd_decoder.norm import norm_silu


class ServedKL(nn.Module):
    """Computes the same as diffusers' `Decoder` behind its `post_quant_conv`.

    Args:
        first: the `post_quant_conv`.
        decoder: shares its weights.
    """

    def __init__(self, first: nn.Module, decoder: Any) -> None:
        super().__init__()
        self.first = first
        self.decoder: Any = decoder

    def forward(self, z: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, 8 h, 8 w)."""
        decoder = self.decoder
        h = decoder.conv_in(self.first(z))
        middle = decoder.mid_block
        h = _resnet(middle.resnets[1], middle.attentions[0](_resnet(middle.resnets[0], h)))
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                h = _resnet(resnet, h)
            for upsampler in block.upsamplers or ():
                conv = upsampler.conv
                h = upsample(h, fold_upsampling(conv.weight), conv.bias)
        return decoder.conv_out(_norm_silu(decoder.conv_norm_out, h))


def _resnet(block: Any, x: Tensor) -> Tensor:
    h = _norm_silu(block.norm1, x)
    bias = block.conv1.bias if prefers_kernel(h) else None
    h = F.conv2d(h, block.conv1.weight, None if bias is not None else block.conv1.bias, padding=1)
    shortcut = x if block.conv_shortcut is None else pointwise(block.conv_shortcut, x)
    return convolve(block.conv2, _norm_silu(block.norm2, h, bias), shortcut)


def _norm_silu(norm: nn.GroupNorm, x: Tensor, bias: Tensor | None = None) -> Tensor:
    affine = Modulation(norm.weight[None, None, None], norm.bias[None, None, None])
    return norm_silu(x, affine, norm.num_groups, norm.eps, bias=bias)
