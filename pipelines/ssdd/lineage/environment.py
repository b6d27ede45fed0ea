"""The machine, the command and the commit, as facts for the reader; no host or user names."""

import functools
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Returns CPU, cores, memory and platform, and the GPUs where torch is loaded and sees any."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "platform": platform.platform(), "gpu": _gpus()}


def command() -> str:
    """Returns what this process was started with, without the folder of the program."""
    return shlex.join([Path(sys.argv[0] or "python").name, *sys.argv[1:]])


def commit(project: Path) -> dict[str, Any]:
    """Returns the project's git commit and whether tracked files differ; None outside a repository."""
    revision = _git(project, "rev-parse", "HEAD")
    if revision is None:
        return {"commit": None, "dirty": None}
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
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
