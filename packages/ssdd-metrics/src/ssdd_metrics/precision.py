"""Plain float32 while a pretrained network runs, whatever the surrounding training uses."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def strict_float32(device: torch.device) -> Iterator[None]:
    """Turns autocast and TF32 off: by default, PyTorch's convolutions keep 10 bits on recent GPUs.

    Args:
        device: that the pretrained network runs on.
    """
    precision = torch.get_float32_matmul_precision()
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
