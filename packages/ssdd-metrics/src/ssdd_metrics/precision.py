"""Plain float32 for metric networks, whatever precision the surrounding training uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def strict_float32(device: torch.device) -> Iterator[None]:
    """Turns autocast and TF32 off, and restores the caller's settings at the end.

    By default, PyTorch's convolutions on recent GPUs keep 10 of float32's 23 bits.

    Args:
        device: of the network.
    """
    precision = torch.get_float32_matmul_precision()
    # The context manager sets all flags at once, so the ones to be left alone are passed with their present values.
    cudnn = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=torch.backends.cudnn.benchmark,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=False,
    )
    with torch.autocast(device.type, enabled=False), cudnn:
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
