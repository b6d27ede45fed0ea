"""What `--model` may say: a checkpoint's place, or a run of this project and which of its models."""

import tomllib
from pathlib import Path

# What the stages leave in data/<run>/models/, the last one first: `<run>` is the furthest that a run has come.
STAGES = ("distilled", "finetuned", "pretrained", "encoder")
WHICH = {"": "", "last": "", "best": "_best"}


def find_model(source: str, start: Path | None = None) -> str:
    """Turns `<run>`, `<run>@last` and `<run>@best` into a file; leaves files, folders and hub ids as they are.

    Args:
        source: what was written.
        start: the folder inside a project; the working directory by default.

    Raises:
        ValueError: there is such a run, but it has no such model; or `source` can be nothing but a run, and is none.
    """
    from ssdd.runs import data_folder, known_runs
    from ssdd.suggestions import nearest

    if Path(source).exists():
        return source
    run, at, which = source.partition("@")
    project = _project(start or Path.cwd())
    runs = known_runs(project) if project else []
    if project is None or run not in runs:
        if "/" in source or Path(source).suffix == ".safetensors" or source == "sdvae":
            return source
        where = f"in {project}" if project else "here, outside a project"
        raise ValueError(
            f"there is no file or folder {source[:200]!r}, and no run of that name {where}{nearest(run, runs)}"
        )
    if which not in WHICH or (at and not which):
        raise ValueError(f"expected <run>, <run>@last or <run>@best, got {source!r}")
    folder = data_folder(project) / run / "models"
    for stage in STAGES:
        file = folder / f"{stage}{WHICH[which]}.safetensors"
        if file.is_file():
            return str(file)
    raise ValueError(f"the run {run!r} has no {which or 'last'} model yet: expected one in {folder}")


def _project(start: Path) -> Path | None:
    """The nearest folder, from `start` upwards, that is a Kedro project."""
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file() and "kedro" in tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}):
            return folder
    return None
