"""On SIGTERM or SIGINT, a run saves its state and ends. If that takes too long, the process ends without it."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_SECONDS = 25.0  # below the 30 seconds that Kubernetes and Slurm wait between SIGTERM and SIGKILL


class Interrupts:
    """Context in which the first SIGTERM or SIGINT is noted in `received` instead of ending the process.

    A watching thread ends the process `grace` seconds after the signal, even if the main thread waits in a collective
    operation for a process that has ended: Python runs a signal handler only between two bytecodes of the main thread,
    so the watching thread reads the interpreter's wake-up pipe instead. Outside the main thread nothing is installed,
    because Python allows handlers in the main thread only.
    """

    def __init__(self, grace: float = GRACE_SECONDS, leave: Callable[[int], Any] = os._exit):
        self.grace, self.leave = grace, leave
        self.received: int = 0

    def __enter__(self) -> "Interrupts":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._over = threading.Event()
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)  # required by set_wakeup_fd: a full pipe must not stop the process
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
            threading.Thread(target=self._watch, daemon=True, name="signal-watch").start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._active:
            self._over.set()
            for number, handler in self._previous.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._writer)  # ends the watching thread's read

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

    def _watch(self) -> None:
        number = 0
        while number not in SIGNALS:
            data = os.read(self._reader, 1)
            if not data:
                os.close(self._reader)
                return
            number = data[0]
        if not self._over.wait(self.grace):
            self.leave(128 + number)
        os.close(self._reader)


class Interrupted(SystemExit):
    """The run was stopped by a signal after it saved its state; exit code 128 + signal."""

    def __init__(self, number: int, step: int):
        super().__init__(128 + number)
        self.number, self.step = number, step

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        return f"stopped by {name} after step {self.step}, state saved: run the same command to go on"
