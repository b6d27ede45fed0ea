"""The explanation of an error on the command line."""

import errno
import os

import pytest
from kedro.io.core import DatasetError

from ssdd.errors import explain

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.csv")


def wrapped(cause):
    """The error as Kedro's datasets raise it, twice over."""
    inner, outer = DatasetError("failed while saving data to a dataset"), DatasetError("failed again")
    inner.__cause__, outer.__cause__ = cause, inner
    return outer


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), "No such file or directory: a.png"),
        (
            ValueError("unknown parameter 'a'\n  unknown parameter 'b'\n"),
            "unknown parameter 'a'\nunknown parameter 'b'",
        ),
        (ValueError(), "ValueError"),
        (wrapped(ValueError("expected a table")), "expected a table"),
        (DatasetError("no cause"), "no cause"),
        (ChildProcessError("Traceback\n  of a worker"), "Traceback\n  of a worker"),
        (RuntimeError("CUDA out of memory"), "out of memory: give a smaller --batch-size, smaller images"),
        (MemoryError(), "out of memory: give a smaller --batch-size, smaller images"),
        (FULL, "No space left on device: a.csv"),
    ],
)
def test_the_user_reads_the_reason_alone(error, explained):
    said = explain(error)
    assert said.startswith(explained) if "out of memory" in explained else said == explained


@pytest.mark.parametrize("error", [FULL, wrapped(FULL), ValueError("I/O error: No space left on device (os error 28)")])
def test_advice_for_a_full_disk(error):
    assert explain(error, when_disk_full="make room").endswith(": make room")
    assert explain(ValueError("x"), when_disk_full="make room") == "x"
