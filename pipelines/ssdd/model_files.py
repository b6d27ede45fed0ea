"""Names of models: a checkpoint's path or hub id, a run of this project, or a model that comes along."""

import os
import tomllib
from pathlib import Path

# The checkpoints that the stages leave in data/<run>/models/, the last stage first: `<run>` means the furthest one.
STAGES = ("distilled", "finetuned", "pretrained", "encoder")


def find_model(source: str, start: Path | None = None) -> str:
    """Turns `<run>`, `<run>@last`, `<run>@best` and `demo` into a file; leaves files, folders and hub ids as they are.

    A run goes before a packaged model of the same name: whoever trains one means that one.

    Args:
        source: what the user wrote.
        start: a folder inside a project; the working directory by default.

    Raises:
        ValueError: the run has no such model; `source` can only be a run, and no run has that name; or a packaged model
            is not in this installation.
    """
    # Imported here: `ssdd --help` needs none of it and must start at once.
    from ssdd.packaged import NAMES, model_file
    from ssdd.runs import data_folder, known_runs, looks_like_file, read_reference
    from ssdd.suggestions import nearest

    if Path(source).exists():
        return source
    source = os.path.expanduser(source)
    if Path(source).exists():
        return source
    project = enclosing_project(start or Path.cwd())
    runs = known_runs(project) if project else []
    reference = read_reference(source, runs)
    if project is None or reference is None:
        if source in NAMES:
            return str(model_file(source))
        if looks_like_file(source) or source == "sdvae":  # a hub id has a slash too
            return source
        where = f"in {project}" if project else "here, outside a project"
        near = nearest(source.partition("@")[0], runs)
        raise ValueError(
            f"there is no file or folder {source[:200]!r}, and no run of that name {where}{near}; "
            f"models that come with ssdd: {', '.join(NAMES)}"
        )
    folder = data_folder(project) / reference.run / "models"
    for stage in STAGES:
        file = folder / f"{stage}{'_best' if reference.best else ''}.safetensors"
        if file.is_file():
            return str(file)
    if source in NAMES:  # a run of that name has begun, and has no model yet
        return str(model_file(source))
    which = "best" if reference.best else "last"
    raise ValueError(f"the run {reference.run!r} has no {which} model yet: expected one in {folder}")


def find_kl(source: str, adversarial: bool = False, start: Path | None = None) -> str:
    """Turns `<run>`, `<run>@last` and `<run>@best` into the file of its KL-VAE; leaves files as they are.

    Args:
        source: the value of the option.
        adversarial: of a run, the decoder trained with an adversary.
        start: a folder inside a project; the working directory by default.

    Raises:
        ValueError: there is no such file and no such run, or the run has no KL-VAE.
    """
    if Path(source).is_file():
        return source
    return _of_run(source, f"kl{'_adversarial' if adversarial else ''}", "KL-VAE", "train_kl", start)


def find_generator(source: str, start: Path | None = None) -> str:
    """Turns `<run>`, `<run>@last` and `<run>@best` into the file of its generator; leaves files as they are.

    Raises:
        ValueError: there is no such file and no such run, or the run has no generator.
    """
    if Path(source).is_file():
        return source
    return _of_run(source, "generator", "generator", "train_generator", start)


def find_decoder(source: str, decoder: str, start: Path | None = None) -> str:
    """Returns the file of a run's `student`, `teacher` or `kl`, the last ones of a run that is named `<run>@best` too.

    Raises:
        ValueError: `source` is no run, or the run has no such decoder.
    """
    if Path(source).is_file():
        raise ValueError(
            f"expected a model of the latents' decoder beside the generator's file {source}: add --decoder"
        )
    stage = {"student": ("distilled", "distill"), "teacher": ("finetuned", "finetune"), "kl": ("kl", "train_kl")}
    return _of_run(source.partition("@")[0], stage[decoder][0], decoder, stage[decoder][1], start)


def _of_run(source: str, model: str, title: str, pipeline: str, start: Path | None) -> str:
    from ssdd.runs import data_folder, known_runs, read_reference
    from ssdd.suggestions import nearest

    project = enclosing_project(start or Path.cwd())
    runs = known_runs(project) if project else []
    reference = read_reference(source, runs)
    if project is None or reference is None:
        raise ValueError(f"there is no file {source[:200]!r}, and no run of that name{nearest(source, runs)}")
    file = data_folder(project) / reference.run / "models" / f"{model}{'_best' if reference.best else ''}.safetensors"
    if not file.is_file():
        raise ValueError(
            f"the run {reference.run!r} has no {title} yet, expected one at {file}: kedro run --pipeline={pipeline}"
        )
    return str(file)


def enclosing_project(start: Path) -> Path | None:
    """The nearest folder, from `start` upwards, that is a Kedro project."""
    # Kedro's find_kedro_project does the same, but Kedro takes longer to import than most commands take.
    for folder in (start, *start.parents):
        file = folder / "pyproject.toml"
        if file.is_file() and "kedro" in tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}):
            return folder
    return None
