"""Checkpoints that are provided instead of made: `--params teacher=<file>`, `<run>`, `<run>@best`, `<run>@last`.

A project lists in its rules which parameter provides which dataset. When a user sets such a parameter, the
nodes of the replaced namespaces are left out of the run, the catalog entry reads the provided file, and the
other datasets of the nodes left out are None for the nodes that take them. So are those of nodes that a parameter
switches off.
"""

import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from kedro.io import CatalogProtocol, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from ssdd.lineage.catalog_entries import arguments, artefact_path, get_dataset
from ssdd.lineage.project_rules import ReplaceableDataset
from ssdd.runs import check_run_name, data_folder, known_runs, looks_like_file, read_reference, run_folder
from ssdd.suggestions import nearest


@dataclass(frozen=True)
class ProvidedDataset:
    """A dataset that this run takes from a file.

    Attributes:
        parameter: the parameter that provides it.
        written: the parameter's value.
        replaced: the dataset that it replaces.
        file: the file that the value means.
    """

    parameter: str
    written: str
    replaced: ReplaceableDataset
    file: Path

    def __str__(self) -> str:
        return f"{self.parameter}={self.written}"

    def replaces(self, node: Node) -> bool:
        """Says whether a node is left out because of this file."""
        own, names = node.namespace or "", self.replaced.replaces
        inside = any(own == name or own.startswith(f"{name}.") for name in names)
        return inside or self.replaced.dataset in node.outputs


def find_provided(
    parameters: Mapping[str, object],
    replaceable: Mapping[str, ReplaceableDataset],
    catalog: CatalogProtocol,
    project: Path,
    run_name: str,
) -> list[ProvidedDataset]:
    """Finds the file of each dataset that the parameters provide.

    Args:
        parameters: all parameters of the run.
        replaceable: parameter -> the dataset that it provides.
        catalog: the run's datasets.
        project: the project's folder; relative files start there or at the working directory.
        run_name: this run, whose paths are turned into the other run's.

    Raises:
        ValueError: there is no such file and no such run, or the run has no such checkpoint.
    """
    found = []
    for parameter, replaced in replaceable.items():
        if parameters.get(parameter) not in (None, ""):
            written = parameters[parameter]
            if not isinstance(written, str):
                raise ValueError(f"{parameter}: expected a text, got {written!r}: write it in quotes")
            converted = replaced.convert(written, parameters, project) if replaced.convert else None
            file = converted or _file(parameter, written, replaced, catalog, project, run_name)
            found.append(ProvidedDataset(parameter, written, replaced, file))
    return found


def switched_off(parameters: Mapping[str, object], switches: Mapping[str, frozenset[str]]) -> set[str]:
    """Returns the names of the nodes that parameters switch off.

    Args:
        parameters: all parameters of the run, groups as their typed models.
        switches: parameter, written `group.name` -> the nodes that are left out where it is false.
    """
    off: set[str] = set()
    for parameter, nodes in switches.items():
        group, name = parameter.split(".")
        if getattr(parameters.get(group), name, True) is False:
            off |= nodes
    return off


def use_provided(
    pipeline: Pipeline,
    catalog: CatalogProtocol,
    provided: list[ProvidedDataset],
    off: Set[str],
    project: Iterable[Node],
) -> Pipeline:
    """Returns the pipeline without the nodes that provided datasets replace, and points the catalog at the files.

    Args:
        pipeline: of the run.
        catalog: its datasets; changed.
        provided: the datasets that are not made.
        off: names of further nodes to leave out, with all that work for them alone.
        project: all nodes of the project. What they would make is None here too where only some nodes of it run.
    """
    left_out = _with_feeders([node for node in pipeline.nodes if node.name in off], pipeline)
    for item in provided:
        name = item.replaced.dataset
        left_out += [node for node in pipeline.nodes if item.replaces(node)]
        # The entry keeps its own type, so that a provided file is checked as a made one is.
        dataset = get_dataset(catalog, name)
        catalog[name] = type(dataset)(**{**arguments(dataset), "filepath": str(item.file)})
    kept = [node for node in pipeline.nodes if node not in left_out]
    elsewhere = [node for node in project if node.name in off or any(item.replaces(node) for item in provided)]
    made = {name for node in (*left_out, *elsewhere) for name in node.outputs}
    missing = made - {item.replaced.dataset for item in provided}
    for name in missing & {name for node in kept for name in node.inputs}:
        catalog[name] = MemoryDataset(None)
    return Pipeline(kept)


def _with_feeders(nodes: list[Node], pipeline: Pipeline) -> list[Node]:
    """Returns the nodes, and those all of whose results only they need."""
    out = list(nodes)
    while True:
        kept = [node for node in pipeline.nodes if node not in out]
        needed, wanted = ({name for node in group for name in node.inputs} for group in (kept, out))
        idle = [node for node in kept if set(node.outputs) & wanted and not set(node.outputs) & needed]
        if not idle:
            return out
        out += idle


def _file(
    parameter: str, written: str, replaced: ReplaceableDataset, catalog: CatalogProtocol, project: Path, run_name: str
) -> Path:
    # A file takes precedence over a run of the same name, because users see the file in their folder.
    for place in (Path(os.path.expanduser(written)), project / written):
        if place.is_file():
            return place.resolve()
    if looks_like_file(written):
        raise ValueError(f"{parameter}: expected a checkpoint file, found none at {written!r}")
    runs = known_runs(project)
    try:
        reference = read_reference(written, runs)
    except ValueError as error:
        raise ValueError(f"{parameter}: {error}") from None
    if reference is None:
        run = written.partition("@")[0]
        raise ValueError(f"{parameter}: no file and no run is called {run!r}{nearest(run, runs)}")
    run = reference.run
    name = replaced.best if reference.best else replaced.dataset
    if name is None:
        raise ValueError(f"{parameter}: this stage keeps no best checkpoint; write {run} or {run}@last")
    # The catalog knows the paths of this run only. Those of another run differ in the run's folder alone.
    here = artefact_path(get_dataset(catalog, name), name)
    ours = run_folder(project, run_name)
    if here is None or not here.is_relative_to(ours):
        raise ValueError(f"expected the catalog entry {name!r} to lie below {ours}, got {here}")
    there = data_folder(project) / check_run_name(run) / here.relative_to(ours)
    if not there.is_file():
        raise ValueError(f"{parameter}: the run {run!r} has no {name} yet: expected it at {there}")
    return there
