"""What a call costs beside time: arithmetic, memory traffic, peak memory."""

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ssdd.benchmarking.timing import synchronize


@dataclass(frozen=True)
class Work:
    """What a call does, by its operators.

    Args:
        flops: of products (a multiplication and an addition are two).
        bytes: read and written, each operator by itself: what a compiler may save a part of.
    """

    flops: int
    bytes: int


def count_work(call: Callable[[], object]) -> Work:
    """Counts while calling once; what is compiled is run operator by operator."""
    eager = torch.compiler.set_stance("force_eager")
    with eager, FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        call()
    return Work(flops.get_total_flops(), traffic.bytes)


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call needs at most beyond what was there before; None where the system does not tell.

    On CUDA, what PyTorch allocated. On a CPU, what the process had resident (Linux).
    """
    gc.collect()
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        _give_back()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is now what is resident
        before = _resident("VmHWM")
        call()
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError, TypeError):
        return None


def held_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that the result of a call keeps: of a loss, what its backward pass needs. Measured like `peak_memory`."""
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        result = call()
        held = torch.cuda.memory_allocated(device) - before
        del result
        return held
    try:
        _give_back()
        before = _resident("VmRSS")
        result = call()
        _give_back()
        held = max(0, _resident("VmRSS") - before)
        del result
        return held
    except (OSError, AttributeError, TypeError):
        return None


def _give_back() -> None:
    """Gives memory that was freed, and kept to be used again, back to the system."""
    ctypes.CDLL(None).malloc_trim(0)


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the system does not tell {name}")


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that each operator takes and gives; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = {id(x): x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)}
            self.bytes += sum(x.numel() * x.element_size() for x in tensors.values())
        return out
