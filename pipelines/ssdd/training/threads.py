"""`runtime.threads: auto`: the faster of one thread and all cores, measured on steps of the stage itself.

No rule replaces the measurement. All cores are faster on an idle machine, but far slower while another process is busy,
because every operation of a small network waits for its slowest thread.
"""

import logging
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ssdd.parameters import LoopParameters, RuntimeConfig
from ssdd.processes import choose_device

log = logging.getLogger(__name__)

ROUNDS = 9
SECONDS = 5.0  # no round begins later
WATCHED = 9  # steps whose median counts
SLOWDOWN = 3.0  # a smaller one may be chance
GAIN = 1.1  # a smaller one may be chance, and more threads suffer more from a process that starts later


def is_measured(stage: LoopParameters, runtime: RuntimeConfig) -> bool:
    """Says whether `auto` has a choice: one process on several cores, without code that is compiled for a number."""
    alone = "RANK" not in os.environ  # set in the workers of `launch` and of torchrun
    on_cpu = choose_device(runtime.device).type == "cpu"
    return runtime.threads == "auto" and alone and on_cpu and not stage.compile and torch.get_num_threads() > 1


def choose_threads(step: Callable[[], object], title: str) -> None:
    """Times a step with one thread and with as many as there are now, in turn, and sets the better number.

    Args:
        step: makes one training step.
        title: of the stage, for the log.
    """
    most = torch.get_num_threads()
    seconds: dict[int, list[float]] = {1: [], most: []}
    end = time.perf_counter() + SECONDS
    while len(seconds[1]) < ROUNDS and (not seconds[1] or time.perf_counter() < end):
        for threads, times in seconds.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
    # The first call of each side allocates and chooses algorithms, but steps of seconds have no second call.
    one, all_cores = (statistics.median(times[1:] or times) for times in seconds.values())
    chosen = most if one >= GAIN * all_cores else 1
    torch.set_num_threads(chosen)
    log.info(
        "%s: a step takes %.3g s with 1 thread and %.3g s with %d; %d from now on", title, one, all_cores, most, chosen
    )


class SlowdownWatch:
    """Goes on with one thread when steps take several times as long as before: another process needs a core.

    Every operation of a small network waits for its slowest thread, so with one busy core the other one idles too.
    """

    def __init__(self, title: str, active: bool) -> None:
        """`active`: whether the number of threads was chosen by measurement, and may change."""
        self._title = title
        self._active = active
        self._latest: deque[float] = deque(maxlen=WATCHED)
        self._fastest = float("inf")
        # One thread takes at most as many times as long as all of them: beyond that it cannot be the slower choice.
        self._slowdown = max(SLOWDOWN, torch.get_num_threads())

    def record(self, seconds: float) -> None:
        """Takes the time of a step, without the wait for its images."""
        if not self._active:
            return
        self._latest.append(seconds)
        if len(self._latest) < WATCHED:
            return
        median = statistics.median(self._latest)
        self._fastest = min(self._fastest, median)
        if median > self._slowdown * self._fastest:
            torch.set_num_threads(1)
            self._active = False
            log.info(
                "%s: a step takes %.3g s instead of %.3g s, as if another process needed a core; 1 thread from now on",
                *(self._title, median, self._fastest),
            )


@contextmanager
def kept_threads() -> Iterator[None]:
    """Gives torch its number of threads back at the end."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
