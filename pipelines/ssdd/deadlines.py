"""Ends a process soon after SIGTERM, SIGUSR1 or Ctrl-C, even while its main thread is in one long native call.

Python runs a signal's handler only between two bytecodes of the main thread, so a convolution of minutes would delay it
by minutes. The interpreter's wake-up pipe is written at once, and another thread can read it.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar

from ssdd.files import WINDOWS

PREEMPTION = (signal.SIGTERM, *(() if WINDOWS else (signal.SIGUSR1,)))  # from a cluster; SIGINT is a person
SIGNALS = (signal.SIGINT, *PREEMPTION)
SECONDS = 4.0  # from the signal to the end
WORKERS_END = 40.0  # in which worker processes save their states and their launcher ends them: torch gives them 30
INTERRUPTED = 130  # the shell's own status for a command that Ctrl-C ended


class Stopped(KeyboardInterrupt):
    """A signal other than Ctrl-C ended the block of `ends_on_sigterm`; its number is in `number`."""

    def __init__(self, number: int):
        super().__init__(f"signal {number}")
        self.number = number


class Deadline:
    """Context in which the process ends `grace` seconds after the first of SIGNALS, if it still runs then.

    What must not stay behind is removed first, see `removing`. Outside the main thread nothing is installed, because
    Python allows neither handlers nor a wake-up pipe there.

    Args:
        grace: seconds; longer within `patience`.
        leave: ends the process, given the signal's number.
    """

    _patience: ClassVar[float] = 0.0
    _removals: ClassVar[list[Callable[[], Any]]] = []
    _requeue_code: ClassVar[int | None] = None

    def __init__(self, grace: float = SECONDS, leave: Callable[[int], Any] | None = None) -> None:
        self.grace = grace
        self._leave = leave or _leave

    def __enter__(self) -> "Deadline":
        self._active = threading.current_thread() is threading.main_thread()
        if self._active:
            self._owner = os.getpid()
            self._over = threading.Event()
            self._reader, self._writer = os.pipe()
            if hasattr(os, "set_blocking"):  # on Windows since Python 3.12, where nothing requires it
                os.set_blocking(self._writer, False)  # required by set_wakeup_fd: a full pipe must not stop the process
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, daemon=True, name="signal-watch").start()
        return self

    def __exit__(self, *error: object) -> None:
        # A forked worker that ends inside this block must leave its parent's pipe alone.
        if self._active and os.getpid() == self._owner:
            self._over.set()
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._writer)  # ends the watching thread's read

    @classmethod
    @contextlib.contextmanager
    def patience(cls, seconds: float) -> Iterator[None]:
        """Grants the block at least so many seconds, such as processes need to save their states."""
        before, cls._patience = cls._patience, seconds
        try:
            yield
        finally:
            cls._patience = before

    @classmethod
    @contextlib.contextmanager
    def removing(cls, removal: Callable[[], Any]) -> Iterator[None]:
        """Within the block, a process that ends by a deadline first calls `removal`."""
        cls._removals.append(removal)
        try:
            yield
        finally:
            cls._removals.remove(removal)

    @classmethod
    def code(cls, number: int, usual: int) -> int:
        """Returns the exit code after a signal: within `exits_with` its code, if a cluster sent the signal."""
        return usual if cls._requeue_code is None or number not in PREEMPTION else cls._requeue_code

    def _watch(self) -> None:
        number = 0
        while number not in SIGNALS:
            data = os.read(self._reader, 1)
            if not data:
                os.close(self._reader)
                return
            number = data[0]
        if not self._over.wait(max(self.grace, self._patience)):
            for removal in self._removals:
                with contextlib.suppress(Exception):  # the others must be called too
                    removal()
            self._leave(number)
        os.close(self._reader)


@contextlib.contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM and SIGUSR1 end the block as Ctrl-C does: with a KeyboardInterrupt; temporary files are removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, owner = {number: signal.signal(number, stop) for number in PREEMPTION}, os.getpid()
    try:
        yield
    finally:
        # A forked worker that ends inside this block must not touch handlers that the worker has set for itself.
        if os.getpid() == owner:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def waits_in_peace() -> Iterator[None]:
    """Ignores SIGNALS within the block, so that a second Ctrl-C does not end the wait for processes that save."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A function, because a process that starts now would inherit SIG_IGN.
    before = {number: signal.signal(number, lambda number, frame: None) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def exits_with(code: int | None) -> Iterator[None]:
    """Lets a process that SIGTERM or SIGUSR1 ends within the block leave with a code; Ctrl-C and errors keep theirs.

    Args:
        code: tells a cluster's scheduler to start the same command again. None: 128 + signal from a stage that saved
            its state, and 130 from all else.

    Raises:
        SystemExit: with the code.
    """
    before, Deadline._requeue_code = Deadline._requeue_code, code
    try:
        yield
    except Stopped as stop:
        if code is None:
            raise
        raise SystemExit(code) from stop
    except SystemExit as stop:
        if code is not None and stop.code in [128 + number for number in PREEMPTION]:
            stop.code = code  # the same object: its text says at which step the stage has stopped
        raise
    finally:
        Deadline._requeue_code = before


def remove_all_unfinished() -> None:
    """Removes the temporary files of all writers in this process; each package has its own list of them."""
    for name in ("ssdd", "ssdd_encoder", "ssdd_decoder", "ssdd_metrics"):
        files = sys.modules.get(f"{name}.files")
        if files is not None:
            files.remove_unfinished()


def _leave(number: int) -> None:
    """Ends the process at once; the terminal gets its cursor back, which a progress bar hides."""
    text = "Interrupted in the middle of a long computation: no file is half-written; finished files are kept.\n"
    with contextlib.suppress(OSError):
        shown = b"\x1b[?25h" if os.isatty(2) else b""
        # Windows can wait for sockets alone.
        if WINDOWS or select.select([], [2], [], 0.2)[1]:  # a reader that is stuck must not hold the process
            os.write(2, shown + b"\n" + text.encode())
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(Deadline.code(number, INTERRUPTED))
