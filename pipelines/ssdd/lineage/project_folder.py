"""Commands that start in a sub-folder of the project: their paths and their log are those of the shell and the project.

A relative path of a command line starts at the folder of the shell; one in a file of parameters, at the project's.
"""

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.utils import find_kedro_project

from ssdd.runs import looks_like_file

LOGGING = "conf/logging.yml"


def project_folder() -> Path | None:
    """Returns the project in which the working directory lies; None outside of one."""
    found = find_kedro_project(Path.cwd())
    return Path(found) if found else None


def from_shell(written: str, project: Path, may_be_run: bool = False) -> str:
    """Returns a path of the command line, from the project's folder.

    Args:
        written: the path; one that is absolute or begins with `~` stays as it is.
        project: the project's folder.
        may_be_run: it may also be the name of a run, which stays as it is where no file has it.
    """
    if not written or written.startswith("~") or os.path.isabs(written) or Path.cwd() == project:
        return written
    if may_be_run and not looks_like_file(written) and not Path(written).is_file():
        return written
    try:
        return os.path.relpath(written, project)
    except ValueError:  # Windows: the shell is on another drive than the project
        return os.path.abspath(written)


def in_project(parameters: Mapping[str, Any], project: Path, paths: Iterable[str]) -> dict[str, Any]:
    """Returns the parameters with relative paths made absolute, from the project's folder."""
    changed = copy.deepcopy(dict(parameters))
    for name in paths:
        *groups, last = name.split(".")
        group: Any = changed
        for key in groups:
            group = group.get(key) if isinstance(group, dict) else None
        value = group.get(last) if isinstance(group, dict) else None
        if isinstance(value, str) and value and not value.startswith("~") and "://" not in value:
            group[last] = str(project / value)
    return changed


def use_project_logging() -> None:
    """Configures logging by the project's file, which Kedro looks for in the working directory alone."""
    project = project_folder()
    if project is None or Path.cwd() == project or "KEDRO_LOGGING_CONFIG" in os.environ:
        return
    if (project / LOGGING).is_file():
        import yaml
        from kedro.framework import project as kedro_project

        kedro_project.LOGGING.configure(yaml.safe_load((project / LOGGING).read_text(encoding="utf-8")))
