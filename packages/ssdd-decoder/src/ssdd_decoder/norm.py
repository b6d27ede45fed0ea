"""GroupNorm, without a second copy of the features where they may be overwritten.

On a CPU, outside of training, taking the statistics of a large map and then scaling and shifting it in place reads and
writes less than PyTorch's group_norm, and asks the system for no memory, which costs more than the arithmetic above
32 MiB. Elsewhere (small maps, training, accelerators, compiled graphs) group_norm itself is the better choice.
"""

# B batch, C channels, H W feature map

import torch
import torch.nn.functional as F
from torch import Tensor

LARGE = 2**21  # bytes


def overwriting(x: Tensor) -> bool:
    """Whether x is normalised in place here: large, on a CPU, where no gradient is recorded."""
    eager_inference = x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return eager_inference and x.nbytes >= LARGE


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """F.group_norm of (B, C, H, W); x may be overwritten. Weight and bias (C,)."""
    if not overwriting(x):
        return F.group_norm(x, groups, weight, bias, eps)
    mean, inverse = group_statistics(x, groups, eps)
    scale = weight * inverse  # (B, C)
    shift = bias - mean * scale
    return torch.addcmul(shift.to(x.dtype)[:, :, None, None], x, scale.to(x.dtype)[:, :, None, None], out=x)


def group_statistics(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) of each group of (B, C, H, W): two (B, C), in float32 at least."""
    running = torch.zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))  # its dtype is the result's
    each = [torch.batch_norm_update_stats(image, running, running, 0.0) for image in x.split(1)]
    means, variances = (torch.stack(channels).unflatten(1, (groups, -1)) for channels in zip(*each, strict=True))
    between, mean = torch.var_mean(means, 2, correction=0, keepdim=True)
    inverse = (variances.mean(2, keepdim=True) + between).add_(eps).rsqrt_()
    return mean.expand_as(means).flatten(1), inverse.expand_as(means).flatten(1)
