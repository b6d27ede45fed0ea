"""The names of runs, their folders `data/<run_name>/`, and references to them: `RUN`, `RUN@last`, `RUN@best`."""

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssdd.files import TEMPORARY_SUFFIX

# Temporary files that a killed process leaves half-written: this project's own, and those of safetensors' writer.
LEFTOVERS = (f".*{TEMPORARY_SUFFIX}*", ".tmp??????")
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._+-]{0,98}[A-Za-z0-9_+-])?")
# Windows has devices of these names, with any ending, and drops a dot at the end: a run must be able to move there.
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[1-9]|lpt[1-9])(?:\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class RunReference:
    """A checkpoint of a run, as written on the command line.

    Attributes:
        run: the run's name.
        best: the checkpoint with the best metric instead of the last one.
    """

    run: str
    best: bool


def read_reference(written: str, runs: Sequence[str]) -> RunReference | None:
    """Reads `<run>`, `<run>@last` or `<run>@best`.

    Args:
        written: the text.
        runs: the known runs.

    Returns:
        None where the text names no known run: it may still be a file or a hub id, which the caller decides.

    Raises:
        ValueError: a known run is followed by anything but `@last` or `@best`.
    """
    run, at, which = written.partition("@")
    if run not in runs:
        return None
    if at and which not in ("last", "best"):
        raise ValueError(f"expected <run>, <run>@last or <run>@best, got {written!r}")
    return RunReference(run, which == "best")


def looks_like_file(written: str) -> bool:
    """Whether a text can only be a path (or a hub id, which has a slash too), and no run's name."""
    return "/" in written or "\\" in written or Path(written).suffix == ".safetensors"


def check_run_name(name: object) -> str:
    """Returns the name if a run may have it.

    Raises:
        ValueError: it is a number, no plain folder name (separators, `..`, spaces, a dot at an end, longer than 100
            letters), or a device of Windows.
    """
    if not isinstance(name, str):
        raise ValueError(f"expected a run_name that is a text, got {name!r}: write it in quotes, since YAML changes it")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"expected a run_name of letters, digits and . _ + - (at most 100, no dot at an end), got {name!r}"
        )
    if _RESERVED.fullmatch(name):
        raise ValueError(f"expected a run_name that every system can hold, got {name!r}, as Windows calls a device")
    return name


def data_folder(project: Path) -> Path:
    """Returns the folder of all runs."""
    return project / "data"


def run_folder(project: Path, run_name: str) -> Path:
    """Returns the folder of one run's artefacts, resume states and lock."""
    return data_folder(project) / run_name


def hash_cache(project: Path) -> Path:
    """Returns the file that remembers content hashes, for all runs."""
    return data_folder(project) / ".hashes.sqlite"


def fact_cache(run_folder: Path) -> Path:
    """Returns the file that remembers the facts of images, for all runs beside this one."""
    return run_folder.parent / ".facts.sqlite"


def known_runs(project: Path) -> list[str]:
    """Returns the names of the runs that exist."""
    folder = data_folder(project)
    if not folder.is_dir():
        return []
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def sweep(folder: Path) -> int:
    """Removes half-written files of a killed run below its folder; returns how many.

    Call it only while holding the run's lock: the temporary files of a living process match the same names.
    """
    swept = 0
    for leftover in [path for pattern in LEFTOVERS for path in folder.rglob(pattern)]:
        with contextlib.suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            swept += 1
    return swept
