"""The name of this machine's processor, on any system."""

import functools
import platform
import re
import subprocess
import sys
from pathlib import Path


@functools.cache
def processor() -> str:
    """Returns the name of the processor, or else of its architecture."""
    return _of_linux() or _of_macos() or platform.processor() or platform.machine()


def _of_linux() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return found[1].strip() if found else ""


def _of_macos() -> str:
    if sys.platform != "darwin":
        return ""
    try:
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
