"""One run at a time on one run name.

The lock belongs to the process: the system frees it when the process ends, however it ends, and processes
that it started do not keep it.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

_held: set[Path] = set()


@contextlib.contextmanager
def lock_run(folder: Path, command: str) -> Iterator[None]:
    """Holds the lock of a run's folder.

    Args:
        folder: `data/<run_name>`, made when missing.
        command: what this process was started with, told to those who find the lock taken.

    Raises:
        ValueError: another process (or another session of this one) holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / ".lock").resolve()
    if path in _held:  # opening it here would set this process's own lock free
        raise ValueError(f"run {folder.name!r} is in use by another session of this process: wait for it to end")
    descriptor = _take(path)
    _held.add(path)
    try:
        holder = {"pid": os.getpid(), "command": command, "since": datetime.now().isoformat(" ", "seconds")}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        _held.discard(path)
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _take(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except OSError:
            content = _told(descriptor)
            os.close(descriptor)
            raise ValueError(_taken(path.parent.name, content)) from None
        os.close(descriptor)  # its holder removed it in between: that lock guards nothing any more


def _told(descriptor: int) -> bytes:
    """What the holder says of itself; it may be about to say it."""
    for _ in range(20):
        if content := os.pread(descriptor, 65536, 0):
            return content
        time.sleep(0.05)
    return b""


def _taken(run: str, content: bytes) -> str:
    try:
        holder = json.loads(content)
        who = f"process {holder['pid']} since {holder['since']}: {holder['command']}"
    except (ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"run {run!r} is in use by {who}; wait for it to end, stop it, "
        "or keep this run apart with --params run_name=<other name>"
    )
