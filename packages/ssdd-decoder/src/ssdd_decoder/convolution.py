"""Convolutions of channels-last features, with what is added to their result; nearest x2 before one."""

# B batch, C channels, H W feature map

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder.gpu import prefers_joint_kernel

MULTIPLE = 8  # of input channels: with 7, cuDNN does without the GPU's matrix units, and takes five times as long


def convolve(layer: nn.Conv2d, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Applies a convolution to (B, C_in, H, W) and adds a residual connection (B, C_out, H', W') to the result."""
    if layer.bias is not None and prefers_joint_kernel(x):
        weight, missing = layer.weight, -x.shape[1] % MULTIPLE
        if missing:
            x, weight = (F.pad(each, (0, 0, 0, 0, 0, missing)) for each in (x, weight))
            x = x.contiguous(memory_format=torch.channels_last)
        h = F.conv2d(x, weight, None, layer.stride, layer.padding)
        return _add(h, layer.bias, residual)
    h = layer(x)
    if residual is not None:
        h += residual  # in place: h is new, and no backward pass needs its value
    return h


def pointwise(layer: nn.Conv2d, x: Tensor, skip: Tensor | None = None) -> Tensor:
    """Applies a 1x1 convolution; on a GPU as a matrix product, which adds the bias by itself.

    Args:
        layer: of C or, with a skip connection, C + C' input channels.
        x: (B, C, H, W).
        skip: (B, C', H, W), more channels of x, in memory of their own; only where `prefers_kernel`.
    """
    if skip is None and not x.is_cuda:
        return layer(x)
    weight = layer.weight.flatten(1)
    own, rest = weight.tensor_split([x.shape[1]], dim=1)
    y = F.linear(x.permute(0, 2, 3, 1), own, layer.bias)
    if skip is not None:
        y.flatten(0, 2).addmm_(skip.permute(0, 2, 3, 1).flatten(0, 2), rest.T)
    return y.permute(0, 3, 1, 2)


def upsample(x: Tensor, folded: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest x2, then a 3x3 convolution: (B, C, H, W) -> (B, C, 2 H, 2 W), with the kernel of `fold_upsampling`."""
    if bias is not None and prefers_joint_kernel(x):
        return _add(F.conv_transpose2d(x, folded, None, stride=2, padding=1), bias, None)
    return F.conv_transpose2d(x, folded, bias, stride=2, padding=1)


def fold_upsampling(weight: Tensor) -> Tensor:
    """Makes one kernel of nearest x2 and a 3x3 convolution: that of a 4x4 transposed one (stride 2, padding 1).

    Each input pixel becomes a patch of 2 x 2, so its kernel is the sum of the mirrored 3x3 kernel at four shifts, two
    per axis: 2.25 times fewer products, and no upsampled features in memory.

    Args:
        weight: (C_out, C_in, 3, 3).

    Returns:
        (C_in, C_out, 4, 4).
    """
    # Sums of slices, not a product with a constant: on CUDA, the constant's copy would wait for the device. In float32
    # at least, so that each sum is rounded once.
    folded = weight.transpose(0, 1).to(torch.promote_types(weight.dtype, torch.float32))
    for axis in (2, 3):
        first, second, third = folded.unbind(axis)
        folded = torch.stack([third, second + third, first + second, first], dim=axis)
    return folded.to(weight.dtype)


def _add(h: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
    from ssdd_decoder.pointwise_kernels import add_bias  # takes a second to import, and CPUs never need it

    return add_bias(h.contiguous(memory_format=torch.channels_last), bias, residual)
