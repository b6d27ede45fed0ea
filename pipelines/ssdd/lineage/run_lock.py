"""One run at a time on one run name: a lock on the run's folder.

The lock belongs to the process: the system frees it when the process ends, however it ends, and processes that
it started do not keep it. The `filelock` library would replace only the call of `lockf`: it leaves its file
behind in every run's folder, and does not record the holder.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

from ssdd.deadlines import Deadline

LOCKED = 2**30  # the byte that Windows locks, far behind the content: there, nobody could read a locked byte

_held: set[Path] = set()


@contextlib.contextmanager
def lock_run(folder: Path, command: str) -> Iterator[None]:
    """Holds the lock of a run's folder.

    Args:
        folder: `data/<run_name>`, made when missing.
        command: the command line of this process, for the message to others.

    Raises:
        ValueError: another process (or another session of this one) holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / ".lock").resolve()
    # POSIX frees a process's lock as soon as the process closes any descriptor of the file, so a second session in
    # this process must not even open it.
    if path in _held:
        raise ValueError(f"run {folder.name!r} is in use by another session of this process: wait for it to end")
    descriptor = _take(path)
    _held.add(path)
    try:
        holder = {"pid": os.getpid(), "command": command, "since": datetime.now().isoformat(" ", "seconds")}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
        with Deadline.removing(partial(_remove, path)):
            yield
    finally:
        _held.discard(path)
        _remove(path)  # before the lock is freed: later, it could be the file of the next holder
        os.close(descriptor)


def lock_file(descriptor: int) -> None:
    """Locks an open file for this process.

    Raises:
        OSError: another process holds it.
    """
    try:
        import fcntl
    except ModuleNotFoundError:
        import msvcrt  # Windows

        os.lseek(descriptor, LOCKED, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # Windows: an open file keeps its name, and the next holder takes it
        path.unlink(missing_ok=True)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            lock_file(descriptor)
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except OSError:
            content = _holder(descriptor)
            os.close(descriptor)
            raise ValueError(_message(path.parent.name, content)) from None
        # The holder removed the file between our opening and our locking it. Others would lock a new file of the same
        # name, so a lock on this one guards nothing.
        os.close(descriptor)


def _holder(descriptor: int) -> bytes:
    """The holder's own description."""
    for _ in range(20):  # a holder writes it right after locking: an empty file is about to be filled
        os.lseek(descriptor, 0, os.SEEK_SET)
        if content := os.read(descriptor, 65536):
            return content
        time.sleep(0.05)
    return b""


def _message(run: str, content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = f"process {holder['pid']} since {holder['since']}: {holder['command']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"run {run!r} is in use by {who}; wait for it to end, stop it, "
        "or keep this run apart with --params run_name=<other name>"
    )
