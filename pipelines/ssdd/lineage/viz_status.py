"""Keeps Kedro-Viz's record of the last run whole: skipped nodes count as done, their statistics stay."""

import json
from pathlib import Path
from typing import Any

from kedro.pipeline.node import Node
from pluggy import PluginManager

from ssdd.files import atomic_write
from ssdd.lineage.artefacts import is_parameter

STATISTICS = Path(".viz") / "stats.json"


def report_skipped(node: Node, hook_manager: PluginManager | None) -> None:
    """Tells Kedro-Viz that an up-to-date node and its data are as good as run."""
    recorder = _recorder(hook_manager)
    if recorder is None:
        return
    for name in node.inputs:
        if not is_parameter(name):
            recorder.after_dataset_loaded(dataset_name=name, data=True)
    recorder.before_node_run(node=node)
    recorder.after_node_run(node=node)
    for name in node.outputs:
        recorder.after_dataset_saved(dataset_name=name, data=True)


def forget_events(hook_manager: PluginManager | None) -> None:
    """Empties Kedro-Viz's record before a run; its recorder outlives the sessions of a notebook."""
    recorder = _recorder(hook_manager)
    if recorder is not None:
        recorder._events.clear()
        recorder._should_collect_events = False


def read_statistics(project: Path) -> dict[str, Any]:
    """Returns Kedro-Viz's statistics of the data, as the last run left them."""
    try:
        content = json.loads((project / STATISTICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def keep_statistics(project: Path, before: dict[str, Any]) -> None:
    """Puts back the statistics of data that this run left alone."""
    now = read_statistics(project)
    if before.keys() - now.keys():
        with atomic_write(project / STATISTICS) as temporary:
            temporary.write_text(json.dumps({**before, **now}), encoding="utf-8")


def _recorder(hook_manager: PluginManager | None) -> Any:
    if not isinstance(hook_manager, PluginManager):
        return None
    for plugin in hook_manager.get_plugins():
        if type(plugin).__name__ == "PipelineRunStatusHook":
            return plugin
    return None
