"""Starting a stage from a given checkpoint: `--params teacher=<file>`, `<run>`, `<run>@best` or `<run>@last`.

A project lists in its settings which parameter stands for which dataset:

    STARTING_POINTS = {
        "teacher": StartingPoint("finetuned", best="finetuned_best", replaces=("pretrain", "finetune")),
    }

When the parameter is given, the nodes of the replaced namespaces are left out of the run, the dataset is
the given file, and whatever else they would have made is None for those who take it.
"""

from dataclasses import dataclass
from pathlib import Path

from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from ssdd.lineage.artefacts import arguments, artefact_path, get_dataset
from ssdd.runs import check_run_name, data_folder, known_runs, run_folder
from ssdd.suggestions import nearest


@dataclass(frozen=True)
class StartingPoint:
    """A dataset that may be given instead of made.

    Attributes:
        dataset: its catalog entry, a checkpoint; `<run>` and `<run>@last` mean the other run's file of it.
        best: the catalog entry that `<run>@best` means; None where there is none.
        replaces: the namespaces whose nodes are then left out.
    """

    dataset: str
    best: str | None = None
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """A starting point in use: the parameter, what was written, and the file that it means."""

    parameter: str
    written: str
    dataset: str
    file: Path

    def __str__(self) -> str:
        return f"{self.parameter}={self.written}"


def resolve(
    parameter: str, written: str, point: StartingPoint, catalog: CatalogProtocol, project: Path, run_name: str
) -> Given:
    """Finds the file that a starting point means: an existing file first, else a run's.

    Args:
        parameter: e.g. `teacher`.
        written: its value.
        project: the project's folder; relative files start there or at the working directory.
        run_name: this run, whose paths are turned into the other run's.

    Raises:
        ValueError: there is no such file and no such run, or the run has no such checkpoint.
    """
    for place in (Path(written).expanduser(), project / written):
        if place.is_file():
            return Given(parameter, written, point.dataset, place.resolve())
    run, _, which = written.partition("@")
    runs = known_runs(project)
    if "/" in written or "\\" in written or Path(written).suffix == ".safetensors":
        raise ValueError(f"{parameter}: expected a checkpoint file, found none at {written!r}")
    if run not in runs:
        raise ValueError(f"{parameter}: no file and no run is called {run!r}{nearest(run, runs)}")
    if which not in ("", "last", "best"):
        raise ValueError(f"{parameter}: expected <run>, <run>@last or <run>@best, got {written!r}")
    name = point.best if which == "best" else point.dataset
    if name is None:
        raise ValueError(f"{parameter}: this stage keeps no best checkpoint; write {run} or {run}@last")
    here = artefact_path(get_dataset(catalog, name), name)
    ours = run_folder(project, run_name)
    if here is None or not here.is_relative_to(ours):
        raise ValueError(f"expected the catalog entry {name!r} to lie below {ours}, got {here}")
    there = data_folder(project) / check_run_name(run) / here.relative_to(ours)
    if not there.is_file():
        raise ValueError(f"{parameter}: the run {run!r} has no {name} yet: expected it at {there}")
    return Given(parameter, written, point.dataset, there)


def start_from(
    pipeline: Pipeline, catalog: CatalogProtocol, points: dict[str, tuple[StartingPoint, Given]]
) -> Pipeline:
    """Returns the pipeline without the nodes that given checkpoints replace, and sets the catalog."""
    left_out: list[Node] = []
    for point, given in points.values():
        left_out += [node for node in pipeline.nodes if _inside(node, point.replaces) or given.dataset in node.outputs]
        catalog[given.dataset] = _reading(catalog, given)
    kept = [node for node in pipeline.nodes if node not in left_out]
    given_names = {given.dataset for _, given in points.values()}
    wanted = {name for node in kept for name in node.inputs}
    for name in {name for node in left_out for name in node.outputs} & wanted - given_names:
        catalog[name] = MemoryDataset(None)
    return Pipeline(kept)


def written_points(parameters: dict[str, object], known: dict[str, StartingPoint]) -> dict[str, str]:
    """Returns the starting points that the parameters give, as text."""
    return {name: str(parameters[name]) for name in known if parameters.get(name) not in (None, "")}


def _reading(catalog: CatalogProtocol, given: Given) -> object:
    """The dataset's own type, reading the given file."""
    dataset = get_dataset(catalog, given.dataset)
    return type(dataset)(**{**arguments(dataset), "filepath": str(given.file)})


def _inside(node: Node, namespaces: tuple[str, ...]) -> bool:
    own = node.namespace or ""
    return any(own == name or own.startswith(f"{name}.") for name in namespaces)
