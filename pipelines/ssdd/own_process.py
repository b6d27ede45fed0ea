"""A process of its own for a function that `launch` would call in this one, so that trainings run side by side.

Its errors and signals mean what they mean in this process: the command line tells them in the same words.
"""

import contextlib
import copy
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any

import torch

from ssdd.deadlines import INTERRUPTED, Deadline, ends_on_sigterm, remove_all_unfinished
from ssdd.processes import WorkerFailed, call_alone, watch_parent

_told: dict[BaseProcess, bool] = {}  # the processes that run now, and whether each was told to stop
_starting = threading.Lock()  # held by the thread that starts a process


@contextlib.contextmanager
def own_process(sharing: int) -> Iterator[None]:
    """Within the block, in this thread, `launch` gives a function of one process a process of its own.

    Args:
        sharing: how many such processes share the cores, at least 2.
    """
    token = call_alone.set(partial(_call, sharing))
    try:
        yield
    finally:
        call_alone.reset(token)


def stop_own_processes() -> None:
    """Sends SIGTERM to the processes of all threads, once to each; a training saves its state and ends."""
    for process, told in list(_told.items()):
        if not told:  # a second one could end a process that has just saved its state, before it says so
            _told[process] = True
            process.terminate()


def _call(sharing: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function in a process of its own, and returns what it returned.

    Raises:
        WorkerFailed: the process raised an error for programmers, or was killed.
        ValueError, OSError, FloatingPointError: that the function raised for its user to read.
        SystemExit: a signal ended it.
    """
    spawning = multiprocessing.get_context("spawn")  # CUDA does not work in a forked process
    here, there = spawning.Pipe(duplex=False)
    threads = max(torch.get_num_threads() // sharing, 1)
    process = spawning.Process(target=_answer, args=(there, os.getpid(), threads, function, args, kwargs))
    with here, _without_interrupts():
        with _without_main():
            process.start()
        _told[process] = False
        there.close()  # the process has its own; without this, its death would not end the wait for its answer
        try:
            succeeded, answer = here.recv()
        except (EOFError, OSError):  # it ended before its answer, or within it
            succeeded = answer = None
        finally:
            process.join()
            told = _told.pop(process)
    if succeeded:
        return answer
    if succeeded is None:
        raise _end_of(process.exitcode or 0, told)
    error, story = answer
    if story:
        error.add_note(story)  # which `--traceback` shows
    raise error


def _end_of(code: int, told: bool) -> BaseException:
    """Returns what the end of a process without an answer means; `told`: to stop."""
    if code > 128 or (told and code < 0):
        return SystemExit(max(code, 128 - code))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended"
    return WorkerFailed(f"the process of a training {how} (exit code {code}): the same command goes on")


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Blocks Ctrl-C in this thread and in the processes that it starts.

    A terminal sends it to all processes at once, and one that is still importing would print a traceback. This process
    gets it in its main thread, and stops the others.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # of `multiprocessing`; as it starts, it would undo the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hides the main module from a process that starts within the block.

    The process would run it again, and needs nothing of it: a script or a notebook may well start the run at its top
    level, without `if __name__ == "__main__"`.
    """
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _answer(
    answers: Connection, parent: int, threads: int, function: Callable[..., Any], args: Any, kwargs: Any
) -> None:
    """Calls the function in its own process, and sends back what it returned, or its error."""
    import rich

    watch_parent(parent)
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO)
    rich.reconfigure(force_terminal=False)  # lines of progress: the bars of two processes would overwrite each other
    try:
        with ends_on_sigterm(), Deadline(), Deadline.removing(remove_all_unfinished):
            answers.send((True, function(*args, **kwargs)))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit as stop:
        if not str(stop).isdigit():  # at which step the stage has stopped
            print(stop, file=sys.stderr)
        raise
    except Exception as error:
        answers.send((False, _sendable(error)))


def _sendable(error: Exception) -> tuple[Exception, str]:
    """Returns an error for its user as it is, and its traceback; else an error whose message has the traceback."""
    story = traceback.format_exc()
    if isinstance(error, ValueError | OSError | FloatingPointError):
        with contextlib.suppress(Exception):
            ForkingPickler.dumps(error)
            if str(copy.copy(error)) == str(error):  # made again as it will be from a pickle, which may fail too
                return error, story
    return WorkerFailed(f"the process of a training failed:\n{story}"), ""
