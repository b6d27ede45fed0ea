"""The machine that figures are from: its name, its versions, and its measured limits."""

import os
import platform
import time
from typing import Any

import psutil
import torch
import torch.nn.functional as F

from ssdd.benchmarking.timing import synchronize
from ssdd.hardware import processor
from ssdd.number_formats import without_slow
from ssdd.processes import choose_device

COPY_BYTES = 2**28  # far more than any cache holds: the rate must be the memory's
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
CONVOLUTION = {"cpu": (1, 256, 128, 128), "cuda": (16, 512, 256, 256)}  # batch, channels, sides


def prepare_device(name: str, threads: int | None) -> torch.device:
    """Sets the number of CPU threads and returns the device.

    Args:
        name: "auto", "cpu" or "cuda".
        threads: None for one per physical core.
    """
    # Earlier stages of the same process have set their own number.
    torch.set_num_threads(threads or psutil.cpu_count(logical=False) or 1)
    return choose_device(name)


def describe_machine(device: torch.device, dtypes: set[str]) -> dict[str, Any]:
    """Returns names, versions, and the measured copy bandwidth (bytes/s) and product rates (FLOP/s) by dtype.

    A dtype that the device computes far slower than float32 has no rate, and is not benchmarked: it would take hours,
    and nobody would decode with it.
    """
    measured = without_slow(sorted(dtypes), device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "kind": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "copy_bandwidth": copy_bandwidth(device),
        "product_rate": {dtype: product_rate(device, getattr(torch, dtype)) for dtype in measured},
    }


def copy_bandwidth(device: torch.device) -> float:
    """Returns the bytes per second, read and written, of a large copy: the best of several."""
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _best(lambda: target.copy_(source), device)


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the FLOP/s of a large matrix product or of a large 3x3 convolution, whichever is faster."""
    # Different libraries compute the two, and either may be the better one: a limit has to be the higher rate.
    side = MATRIX_SIDE[device.type]
    a = torch.randn(side, side, device=device).to(dtype)
    batch, channels, height, width = CONVOLUTION[device.type]
    x = torch.randn(batch, channels, height, width, device=device).to(dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device).to(dtype).to(memory_format=torch.channels_last)
    convolution = 2 * x.numel() * kernel.numel() // channels
    return max(
        2 * side**3 / _best(lambda: a @ a, device),
        convolution / _best(lambda: F.conv2d(x, kernel, padding=1), device),
    )


def _best(call: Any, device: torch.device, rounds: int = 8) -> float:
    # The minimum, not the median: the result is a limit, and other load can only slow a call down.
    best = float("inf")
    for _ in range(rounds):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
