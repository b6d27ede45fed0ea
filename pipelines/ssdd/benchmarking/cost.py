"""The cost of a call other than time: arithmetic, memory traffic, peak memory."""

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
    """The work of a call, counted by operator.

    Args:
        flops: of products (a multiplication and an addition are two).
        bytes: read and written by each operator separately; a compiler that fuses operators saves a part of them.
    """

    flops: int
    bytes: int


def count_work(call: Callable[[], object]) -> Work:
    """Calls once and counts; compiled code is run operator by operator."""
    # The counters see operators of eager PyTorch only: a compiled graph would count as nothing.
    eager = torch.compiler.set_stance("force_eager")
    with eager, FlopCounterMode(display=False) as flops, _Traffic() as traffic:
        call()
    return Work(flops.get_total_flops(), traffic.bytes)


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Returns the peak of a call's memory in bytes, beyond the memory in use before; None where it is not known.

    On CUDA, this is memory allocated by PyTorch; on a CPU, resident memory of the process (Linux only).
    """
    # Garbage that is freed during the call would hide a part of its peak.
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
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak to the resident memory
        before = _resident("VmHWM")
        call()
        return max(0, _resident("VmHWM") - before)
    except (OSError, AttributeError, TypeError):
        return None


def held_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Returns the bytes that the result of a call keeps: of a loss, its backward pass's. Measured as the peak is."""
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
    """Returns freed memory to the system, which malloc keeps for reuse and which would still count as resident."""
    ctypes.CDLL(None).malloc_trim(0)


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"expected {name} in /proc/self/status, found none: this system does not report it")


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of the tensors that each operator takes and returns; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            # By identity, so that an operator in place counts its tensor once.
            tensors = {id(x): x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)}
            self.bytes += sum(x.numel() * x.element_size() for x in tensors.values())
        return out
