"""The text of an error on the command line, for `kedro run` and for `ssdd`.

Each command decides which errors its user can correct; this module only makes the message.
"""

import errno
import os
import sys

_MEMORY_SIGNS = ("out of memory", "not enough memory", "can't allocate memory")


def explain(error: BaseException, when_disk_full: str = "") -> str:
    """Returns the part of an error that helps its user: the system's words with the file, or the message.

    Args:
        error: the error, perhaps wrapped by Kedro's datasets.
        when_disk_full: advice to add where the disk is full.

    Returns:
        One line, or one line for each mistake where the error lists several.
    """
    cause = _unwrapped(error)
    if when_disk_full and os.strerror(errno.ENOSPC) in str(cause):
        # Libraries report a full disk in errors of their own, so the text decides and not the error number.
        return f"{cause}: {when_disk_full}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror}{f': {cause.filename}' if cause.filename else ''}"
    if isinstance(cause, ChildProcessError):
        return str(cause)  # the traceback of a worker process, whose layout matters
    if is_out_of_memory(cause):
        return "out of memory: give a smaller --batch-size, smaller images, or another --device"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return "\n".join(lines) or type(cause).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or on a device."""
    # On some devices, torch raises a plain RuntimeError for it, which only its text identifies.
    torchs = isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _MEMORY_SIGNS)
    return torchs or isinstance(error, MemoryError)


def _unwrapped(error: BaseException) -> BaseException:
    """The error below Kedro's DatasetErrors, which repeat the whole dataset before the reason."""
    # Looked up instead of imported: Kedro takes longer to import than `ssdd --help` takes, and an error of Kedro's
    # can exist only where Kedro is loaded.
    kedro = sys.modules.get("kedro.io.core")
    while kedro is not None and isinstance(error, kedro.DatasetError) and error.__cause__ is not None:
        error = error.__cause__
    return error
