"""The machine, command and commit of a run, recorded for the reader of a stamp.

None of it enters a fingerprint: another machine is expected to give the same result. Host and user names are
left out, since a stamp may be published with its checkpoint.
"""

import logging
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ssdd.hardware import processor
from ssdd.texts import utf8

_log = logging.getLogger(__name__)


def machine() -> dict[str, Any]:
    """Returns CPU, cores, memory and platform, and the GPUs where torch is loaded and sees any."""
    return {"cpu": processor(), "cores": os.cpu_count(), "platform": platform.platform(), "gpu": _gpus()}


def command() -> str:
    """Returns the command line of this process, without the folder of the program."""
    return utf8(shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]]))


def commit(project: Path) -> dict[str, Any]:
    """Returns the project's git commit and whether tracked files differ; None outside a repository.

    If git refuses to read the repository, a warning says so, and the reason is returned too.
    """
    revision = _git(project, "rev-parse", "HEAD")
    if revision is None:
        refused = _refusal(project)
        if not refused:
            return {"commit": None, "dirty": None}
        _log.warning("the lineage has no commit: %s", refused)
        return {"commit": None, "dirty": None, "no_commit": refused}
    # Untracked files are left out: notes and results are no change of the code.
    return {"commit": revision, "dirty": bool(_git(project, "status", "--porcelain", "--untracked-files=no"))}


def _git(project: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(project), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _refusal(project: Path) -> str:
    """Returns why git does not read the repository of a project; "" where there is none, or no git."""
    if not any((folder / ".git").exists() for folder in (project, *project.parents)):
        return ""
    try:
        said = subprocess.run(
            ["git", "-C", str(project), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "LC_ALL": "C"},
        ).stderr
    except FileNotFoundError:
        return "git is not installed"
    except (OSError, subprocess.SubprocessError) as error:
        return f"git failed ({type(error).__name__})"
    if "dubious ownership" in said:
        return (
            "the repository belongs to another user; `git config --global --add safe.directory FOLDER` lets git read it"
        )
    return "" if "ambiguous argument 'HEAD'" in said else (said.strip().splitlines() or ["git failed"])[0]


def _gpus() -> list[str]:
    # Looked up instead of imported: a run with nothing to do must not wait for torch.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
