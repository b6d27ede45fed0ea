"""On SIGTERM, SIGINT or SIGUSR1, a run saves its state and ends; if that takes too long, it ends without it."""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from ssdd.deadlines import SIGNALS, Deadline

GRACE_SECONDS = 25.0  # below the 30 seconds that Kubernetes and Slurm wait between SIGTERM and SIGKILL


class Interrupts(Deadline):
    """Context in which the first of SIGNALS is noted in `received` instead of ending the process.

    The process ends `grace` seconds after the signal, even if the main thread waits in a collective operation for a
    process that has ended.
    """

    def __init__(self, grace: float = GRACE_SECONDS, leave: Callable[[int], Any] = os._exit):
        super().__init__(grace, lambda number: leave(self.code(number, 128 + number)))
        self.received: int = 0

    def __enter__(self) -> "Interrupts":
        super().__enter__()
        if self._active:
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        if self._active:
            for number, handler in self._previous.items():
                signal.signal(number, handler)
        super().__exit__(*error)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number


class Interrupted(SystemExit):
    """The run was stopped by a signal after it saved its state; exit code 128 + signal."""

    def __init__(self, number: int, step: int):
        super().__init__(128 + number)
        self.number, self.step = number, step

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        return f"stopped by {name} after step {self.step}, state saved: run the same command to go on"
