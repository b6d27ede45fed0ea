"""The machine, command and commit of a run, recorded for the reader of a stamp.

None of it enters a fingerprint: another machine is expected to give the same result. Host and user names are
left out, since a stamp may be published with its checkpoint.
"""

import functools
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from ssdd.texts import utf8


def machine() -> dict[str, Any]:
    """Returns CPU, cores, memory and platform, and the GPUs where torch is loaded and sees any."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "platform": platform.platform(), "gpu": _gpus()}


def command() -> str:
    """Returns the command line of this process, without the folder of the program."""
    return utf8(shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]]))


def commit(project: Path) -> dict[str, Any]:
    """Returns the project's git commit and whether tracked files differ; None outside a repository."""
    revision = _git(project, "rev-parse", "HEAD")
    if revision is None:
        return {"commit": None, "dirty": None}
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


@functools.cache
def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _gpus() -> list[str]:
    # Looked up instead of imported: a run with nothing to do must not wait for torch.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
