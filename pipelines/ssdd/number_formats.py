"""Number formats of a network's computation, and what they cost on this machine's processor.

A processor without instructions for bfloat16 converts each number before and after it computes with it: there a
convolution can take more than ten times as long as in float32.
"""

import functools
import logging
import time
from collections.abc import Collection

import torch
import torch.nn.functional as F

SLOW = 3.0  # emulation costs far more; with instructions for it, or with wider vectors, a format costs less


def number_format(name: str, device: torch.device) -> torch.dtype:
    """Returns the dtype of a name, and warns if the device computes with it far slower than with float32.

    Args:
        name: "float32", "bfloat16" or "float16".
        device: of the computation.
    """
    dtype: torch.dtype = getattr(torch, name)
    if reason := why_slow(dtype, device):
        warn_once(f"{reason}: choose float32, unless memory is short")
    return dtype


@functools.cache
def warn_once(message: str) -> None:
    """Logs a warning that all evaluations and trainings of this process have in common."""
    logging.getLogger(__name__).warning(message)


def why_slow(dtype: torch.dtype, device: torch.device) -> str:
    """Says how much slower than float32 the device computes with a dtype; empty if it is not far slower."""
    factor = slowdown(dtype, device.type)
    name = str(dtype).removeprefix("torch.")
    return f"{name} takes about {factor:.0f} times as long as float32 on this processor" if factor > SLOW else ""


def without_slow(names: Collection[str], device: torch.device) -> list[str]:
    """Leaves out formats that the device computes far slower than float32, and logs why; all stay if none is left."""
    slow = {name: reason for name in names if (reason := why_slow(getattr(torch, name), device))}
    kept = [name for name in names if name not in slow]
    if not kept:
        return list(names)
    for reason in slow.values():
        logging.getLogger(__name__).warning("left out: %s", reason)
    return kept


@functools.cache
def slowdown(dtype: torch.dtype, kind: str) -> float:
    """Returns the time of a small convolution in a dtype over that in float32; 1 on a GPU, which has them all."""
    if kind != "cpu" or dtype == torch.float32:
        return 1.0
    # Measured, since what a processor computes with depends on PyTorch's libraries as well. It takes 0.3 s.
    return _least_time(dtype) / _least_time(torch.float32)


def _least_time(dtype: torch.dtype) -> float:
    threads = torch.get_num_threads()  # one alone: several wait for each other where other work runs
    torch.set_num_threads(1)
    best = float("inf")
    try:
        with torch.inference_mode():
            x = torch.ones(1, 64, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
            kernel = torch.ones(64, 64, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
            for _ in range(8):  # the first one prepares the kernel; other load can only slow a call down
                start = time.perf_counter()  # clocks of processor time are too coarse on Windows
                F.conv2d(x, kernel, padding=1)
                best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best
