"""The rules that a project hands to the runner, together with its hooks.

    RULES = ProjectRules(
        replaceable={"teacher": ReplaceableDataset("finetuned", best="finetuned_best", replaces=("pretrain",))},
        before_run=check_pretrained_networks,
    )
    HOOKS = (ProjectHooks(RULES), RULES)

Kedro registers every entry of `HOOKS` with each session's plugin manager, and a runner is called with that
manager. So the command line, notebooks and plain sessions all use the rules of their own project, and lineage
imports no settings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node
from pluggy import PluginManager

Convert = Callable[[str, Mapping[str, Any], Path], Path | None]
Check = Callable[[Sequence[Node], CatalogProtocol], None]


@dataclass(frozen=True)
class ReplaceableDataset:
    """A dataset that a user may provide instead of letting the run make it.

    Attributes:
        dataset: its catalog entry, a checkpoint; `<run>` and `<run>@last` mean another run's file of it.
        best: the catalog entry that `<run>@best` means; None where there is none.
        replaces: the namespaces whose nodes are then left out.
        convert: makes the file of what users may write besides a file or a run, from that, all parameters and the
            project's folder; or returns None.
    """

    dataset: str
    best: str | None = None
    replaces: tuple[str, ...] = ()
    convert: Convert | None = None


@dataclass(frozen=True, eq=False)  # compared by identity: the plugin manager needs a hash, and a mapping has none
class ProjectRules:
    """The rules of a project that the runner follows.

    Attributes:
        replaceable: parameter -> the dataset that it provides.
        paths: the other parameters that are paths.
        switches: parameter, written `group.name` -> the nodes that are left out where it is false.
        before_plan: called with the nodes that may run, before a plan is shown or the first of them runs.
        before_run: the same, but only before a run: it finds, or downloads, what those nodes need.
    """

    replaceable: Mapping[str, ReplaceableDataset] = field(default_factory=dict)
    paths: frozenset[str] = frozenset()
    switches: Mapping[str, frozenset[str]] = field(default_factory=dict)
    before_plan: Check | None = None
    before_run: Check | None = None


def find_project(hook_manager: PluginManager | None) -> Path | None:
    """Returns the project's folder, which the project's hooks know from the session; None where there are none."""
    plugins = hook_manager.get_plugins() if isinstance(hook_manager, PluginManager) else ()
    return next((plugin.project for plugin in plugins if isinstance(getattr(plugin, "project", None), Path)), None)


def find_rules(hook_manager: PluginManager | None) -> ProjectRules:
    """Returns the rules among a session's plugins; empty ones where the project has none."""
    # Kedro replaces a missing manager by a null object of its own, which has no plugins to list.
    plugins = hook_manager.get_plugins() if isinstance(hook_manager, PluginManager) else ()
    return next((plugin for plugin in plugins if isinstance(plugin, ProjectRules)), ProjectRules())
