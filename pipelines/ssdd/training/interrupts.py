"""SIGTERM and SIGINT ask a run to save and leave; a run that cannot do so in time leaves all the same."""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_SECONDS = 25.0


class Interrupts:
    """Context in which the first SIGTERM or SIGINT is noted in `received` instead of ending the process.

    A watching thread ends the process `grace` seconds after the signal even where the main thread is stuck in a
    collective operation whose partner died, because it learns of the signal through the interpreter's wake-up
    pipe, not from Python code. Outside the main thread nothing is installed (Python allows it there only).
    """

    def __init__(self, grace: float = GRACE_SECONDS, leave: Callable[[int], Any] = os._exit):
        self.grace, self.leave = grace, leave
        self.received: int = 0

    def __enter__(self) -> "Interrupts":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._over = threading.Event()
            self._reader, self._writer = os.pipe()
            os.set_blocking(self._writer, False)
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
            threading.Thread(target=self._watch, daemon=True, name="signal-watch").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
    """The run was asked to stop, saved its state and can be continued; exit code 128 + signal."""

    def __init__(self, number: int, step: int):
        super().__init__(128 + number)
        self.number, self.step = number, step

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        return f"stopped by {name} after step {self.step}, state saved: run the same command to go on"
