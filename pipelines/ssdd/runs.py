"""Where a run keeps things: `data/<run_name>/`, and what a run may be called."""

import contextlib
import re
import shutil
from pathlib import Path

from ssdd.files import TEMPORARY_SUFFIX

LEFTOVERS = (f".*{TEMPORARY_SUFFIX}*", ".tmp??????")  # names of what a killed process leaves half-written: ours, and
# those of safetensors' own writer
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,99}")


def check_run_name(name: object) -> str:
    """Returns the name if a run may be called so.

    Raises:
        ValueError: it is no plain folder name (separators, `..`, spaces, a leading dot, longer than 100
        letters).
    """
    text = str(name)
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"expected a run_name of letters, digits and . _ + - (at most 100, not starting with a dot), got {text!r}"
        )
    return text


def data_folder(project: Path) -> Path:
    """The folder of all runs."""
    return project / "data"


def run_folder(project: Path, run_name: str) -> Path:
    """The folder of one run's artefacts, states and lock."""
    return data_folder(project) / run_name


def hash_cache(project: Path) -> Path:
    """The file that remembers content hashes, for all runs."""
    return data_folder(project) / ".hashes.sqlite"


def known_runs(project: Path) -> list[str]:
    """Names of the runs that there are."""
    folder = data_folder(project)
    if not folder.is_dir():
        return []
    return sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))


def sweep(folder: Path) -> int:
    """Removes what a killed run left half-written below its folder (call it with the run's lock held)."""
    swept = 0
    for leftover in [path for pattern in LEFTOVERS for path in folder.rglob(pattern)]:
        with contextlib.suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            swept += 1
    return swept
