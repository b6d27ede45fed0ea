"""Where the network uses the GPU kernels of this package, in Triton, instead of PyTorch's operators."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None  # PyTorch's builds for Windows have none
_enabled = True


def prefers_kernel(x: Tensor) -> bool:
    """Whether to use a kernel for such features, in the present gradient mode: kernels have no backward pass."""
    # They compute in float32.
    return _enabled and x.is_cuda and x.dtype != torch.float64 and not torch.is_grad_enabled() and HAS_TRITON


def prefers_joint_kernel(x: Tensor) -> bool:
    """Whether one kernel should do several element-wise operations in one pass; a compiler joins them by itself."""
    return prefers_kernel(x) and not torch.compiler.is_compiling()


@contextmanager
def without_kernels() -> Iterator[None]:
    """Within it, PyTorch's operators compute on GPUs too: slower, but each can be seen by profilers and counters."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before
