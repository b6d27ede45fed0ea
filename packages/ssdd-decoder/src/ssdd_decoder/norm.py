"""GroupNorm, modulation and SiLU as one function, which precedes every 3x3 convolution of a residual block.

    y = silu(scale * n + shift),  n = (x - mean) / sqrt(variance + eps)

with mean and variance of each group of channels (Wu and He, 2018), scale and shift of each latent cell and channel. The
backward pass is written by hand. It keeps only x and computes n again; the two sums over a whole group in a norm's
gradient follow from the gradients of scale and shift. Compared with automatic differentiation, it keeps a third of the
memory and, on a CPU, takes a fraction of the time.
"""

# B batch, C channels, H W feature map, h w latent cells; (B, C, H, W) in channels-last memory

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssdd_decoder.gpu import prefers_kernel
from ssdd_decoder.modulation import Modulation, in_cells, may_overwrite
from ssdd_decoder.strips import EXACT_SUM, Moments, of_groups


def norm_silu(
    x: Tensor,
    modulation: Modulation,
    groups: int,
    eps: float,
    overwrite: bool = False,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
) -> Tensor:
    """silu(scale * group_norm(x + bias) + shift).

    Args:
        x: (B, C, H, W).
        modulation: scale and shift, (B or 1, h, w, C).
        groups: of the channels.
        eps: added to the variance.
        overwrite: whether x may be lost.
        bias: (C,), of a convolution that left it out; only where `prefers_kernel`.
        skip: (B, C', H, W), more channels of x, in memory of their own; likewise.

    Returns:
        (B, C, H, W), in channels-last memory and x's dtype.
    """
    if torch.is_grad_enabled():
        fitting = modulation.fit(*x.shape[2:])
        return _NormSiLU.apply(x, fitting.scale, fitting.shift, groups, eps)
    return _norm_silu(x, modulation, groups, eps, overwrite, bias, skip)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float) -> Tensor:
        ctx.save_for_backward(x, scale, shift)
        ctx.groups, ctx.eps = groups, eps
        return _norm_silu(x, Modulation(scale, shift), groups, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, shift = ctx.saved_tensors
        modulation, cells = Modulation(scale, shift), scale.shape[1:3]
        n, inverse = _normalised(x, ctx.groups, ctx.eps)
        modulated = modulation.to(n.dtype).apply(n)
        grad = torch.ops.aten.silu_backward(_channels_last(grad), modulated)
        of_shift, of_scale = _cell_sums(grad, cells), _cell_sums(torch.mul(grad, n, out=modulated), cells)
        # of_x = inverse * (grad * scale - mean(grad * scale) - n * mean(grad * scale * n)), with means over the group
        level, slope = (_group_mean(scale * each, ctx.groups, x) * -inverse for each in (of_shift, of_scale))
        of_x = Modulation(slope, level).to(n.dtype).apply(n, may_overwrite())
        factor = (scale * inverse).to(n.dtype)[:, :, None, :, None]
        in_cells(of_x, cells).addcmul_(in_cells(grad, cells), factor)
        of_scale, of_shift = (each.sum_to_size(scale.shape).to(scale.dtype) for each in (of_scale, of_shift))
        return of_x.permute(0, 3, 1, 2), of_scale, of_shift, None, None


def _norm_silu(
    x: Tensor,
    modulation: Modulation,
    groups: int,
    eps: float,
    overwrite: bool = False,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
) -> Tensor:
    if prefers_kernel(x):
        kernel = _kernel_as_operator if torch.compiler.is_compiling() else partial(_kernel, overwrite=overwrite)
        return kernel(x, skip, modulation.scale, modulation.shift, groups, eps, bias)
    modulation = modulation.fit(*x.shape[2:])
    if x.device.type == "cpu":
        # Norm and modulation as one scaling of x, in place where possible: new memory costs more than arithmetic here.
        overwrite = overwrite and may_overwrite()
        features, modulation = _channels_last(x), modulation.after(*group_statistics(x, groups, eps))
    else:
        features, _ = _normalised(x, groups, eps)
        overwrite = may_overwrite()
    return _modulated_silu(features, modulation, overwrite)


def norm_silu_rows(x: Tensor, modulation: Modulation, statistics: tuple[Tensor, Tensor]) -> Tensor:
    """`norm_silu` of rows of a map, given the statistics of the whole map (from `strips.of_groups`); x is lost."""
    return _modulated_silu(_channels_last(x), modulation.fit(*x.shape[2:]).after(*statistics), overwrite=True)


def _modulated_silu(features: Tensor, modulation: Modulation, overwrite: bool) -> Tensor:
    """silu(scale * features + shift), (B, H, W, C) -> (B, C, H, W)."""
    # SiLU on the view by cell, like the modulation: a compiler then makes one loop of both, without divisions.
    y = F.silu(modulation.to(features.dtype).apply_in_cells(features, overwrite), inplace=True)
    return y.view(features.shape).permute(0, 3, 1, 2)


def _kernel(
    x: Tensor,
    skip: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    groups: int,
    eps: float,
    bias: Tensor | None,
    overwrite: bool = False,
) -> Tensor:
    from ssdd_decoder.norm_kernel import kernel_norm_silu  # takes a second to import, and CPUs never need it

    parts = [x] if skip is None else [x, skip]
    return kernel_norm_silu(parts, scale, shift, groups, eps, bias, overwrite)


@torch.library.custom_op("ssdd_decoder::norm_silu", mutates_args=())
def _kernel_as_operator(
    x: Tensor, skip: Tensor | None, scale: Tensor, shift: Tensor, groups: int, eps: float, bias: Tensor | None
) -> Tensor:
    """Hides the kernel from the compiler, which would make two slower ones of it."""
    return _kernel(x, skip, scale, shift, groups, eps, bias)


@_kernel_as_operator.register_fake
def _(
    x: Tensor, skip: Tensor | None, scale: Tensor, shift: Tensor, groups: int, eps: float, bias: Tensor | None
) -> Tensor:
    batch, channels, height, width = x.shape
    channels += 0 if skip is None else skip.shape[1]
    return x.new_empty(batch, height, width, channels).permute(0, 3, 1, 2)


def _normalised(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """n (B, H, W, C), and 1 / sqrt(variance + eps) of each channel's group (B, 1, 1, C)."""
    batch, channels, height, width = x.shape
    if prefers_kernel(x):
        kernel = _normalised_as_operator if torch.compiler.is_compiling() else _normalised_by_kernel
        n, inverse = kernel(x, groups, eps)
    else:
        if x.device.type != "cpu":
            x = x.contiguous()  # other devices have a group norm for this layout alone
        n, _, inverse = torch.native_group_norm(x, None, None, batch, channels, height * width, groups, eps)
    return _channels_last(n), inverse.repeat_interleave(channels // groups, dim=1)[:, None, None]


def _normalised_by_kernel(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    from ssdd_decoder.norm_kernel import kernel_normalised

    return kernel_normalised(x, groups, eps)


@torch.library.custom_op("ssdd_decoder::normalised", mutates_args=())
def _normalised_as_operator(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    return _normalised_by_kernel(x, groups, eps)


@_normalised_as_operator.register_fake
def _(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    inverse = x.new_empty(x.shape[0], groups, dtype=torch.float32)
    return torch.empty_like(x, memory_format=torch.channels_last), inverse


def group_statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each channel's group of (B, C, H, W): two (B, C)."""
    if torch.compiler.is_compiling():
        return _as_one_operator(x, groups, eps)
    each = [_moments(image) for image in x.split(1)]
    means, variances = (torch.stack(channels) for channels in zip(*each, strict=True))
    return of_groups(means, variances, groups, eps)


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of (1, C, H, W): two (C,)."""
    if image.shape[2] * image.shape[3] > EXACT_SUM:
        moments = Moments(image)
        moments.add(image)
        return moments.mean, moments.variance
    unused = torch.zeros(image.shape[1], dtype=torch.promote_types(image.dtype, torch.float32))  # gives the dtype
    return torch.batch_norm_update_stats(image, unused, unused, 0.0)


@torch.library.custom_op("ssdd_decoder::group_statistics", mutates_args=())
def _as_one_operator(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Hides the statistics from the compiler: it would make a graph per batch size, and divide in its inner loops."""
    return group_statistics(x, groups, eps)


@_as_one_operator.register_fake
def _(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    statistics = x.new_empty(x.shape[:2], dtype=torch.promote_types(x.dtype, torch.float32))
    return statistics, torch.empty_like(statistics)


def _channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C); without a copy where memory is channels-last."""
    return x.permute(0, 2, 3, 1).contiguous()


def _cell_sums(x: Tensor, cells: torch.Size) -> Tensor:
    """Sums of (B, H, W, C) over each cell's features: (B, h, w, C)."""
    if x.device.type == "cpu":  # many times faster there than sum()
        window = (x.shape[1] // cells[0], x.shape[2] // cells[1])
        return F.avg_pool2d(x.permute(0, 3, 1, 2), window, divisor_override=1).permute(0, 2, 3, 1)
    return in_cells(x, cells).sum((2, 4))


def _group_mean(sums: Tensor, groups: int, x: Tensor) -> Tensor:
    """Mean over each channel's group of x (B, C, H, W), from sums of each cell (B, h, w, C): (B, 1, 1, C)."""
    of_groups = sums.sum((1, 2), keepdim=True).unflatten(3, (groups, -1))
    count = x[0].numel() // groups
    return (of_groups.sum(4, keepdim=True) / count).expand_as(of_groups).flatten(3)
