"""Element-wise work on a GPU, in Triton: one pass over memory instead of two or three of PyTorch."""

# B batch, C channels, H W feature map; features are channels-last

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # elements of a program: 16 for each of its threads
WARPS = 8


@triton.jit
def _add(x, bias, residual, y, elements, channels, has_residual: tl.constexpr, block: tl.constexpr):
    """y = x + bias + residual, for one block of elements."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    here = at < elements
    value = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
    value += tl.load(bias + at % channels, mask=here, other=0.0).to(tl.float32)
    if has_residual:
        value += tl.load(residual + at, mask=here, other=0.0).to(tl.float32)
    tl.store(y + at, value, mask=here)


def add_bias(x: Tensor, bias: Tensor, residual: Tensor | None = None) -> Tensor:
    """Adds a convolution's bias, and a residual connection, in place.

    cuDNN computes convolutions without their bias. PyTorch adds it in a pass of its own, which for channels-last
    features takes four times as long as the memory needs.

    Args:
        x: (B, C, H, W) in channels-last memory.
        bias: (C,).
        residual: (B, C, H, W).

    Returns:
        x.
    """
    residual = None if residual is None else residual.contiguous(memory_format=torch.channels_last)
    elements, channels = x.numel(), x.shape[1]
    with torch.cuda.device_of(x):  # Triton starts kernels on the current device, whichever holds the tensors
        _add[(triton.cdiv(elements, BLOCK),)](
            x, bias, residual, x, elements, channels, residual is not None, BLOCK, num_warps=WARPS
        )
    return x


@triton.jit
def _geglu(x, y, elements, hidden, block: tl.constexpr):
    """y = value * gelu(gate), for one block of elements of y."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    here = at < elements
    start = at // hidden * (2 * hidden) + at % hidden
    value = tl.load(x + start, mask=here, other=0.0).to(tl.float32)
    gate = tl.load(x + start + hidden, mask=here, other=0.0).to(tl.float32)
    y_value = value * gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + at, y_value, mask=here)


def geglu(x: Tensor) -> Tensor:
    """value * gelu(gate), the halves of x's last axis: (..., 2 D) -> (..., D)."""
    x = x.contiguous()
    y = torch.empty(*x.shape[:-1], x.shape[-1] // 2, device=x.device, dtype=x.dtype)
    elements = y.numel()
    with torch.cuda.device_of(x):
        _geglu[(triton.cdiv(elements, BLOCK),)](x, y, elements, y.shape[-1], BLOCK, num_warps=WARPS)
    return y
