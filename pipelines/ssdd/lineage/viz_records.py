"""Keeps Kedro-Viz's record of the last run whole: skipped nodes count as done, their statistics stay.

Kedro-Viz records the nodes that ran. Without this module, a run that finds everything up to date would leave
an empty status page and empty statistics.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from ssdd.files import atomic_write
from ssdd.lineage.catalog_entries import is_parameter
from ssdd.runs import sweep

STATISTICS = Path(".viz") / "stats.json"


def begin_record(catalog: CatalogProtocol) -> None:
    """Empties Kedro-Viz's record before a run."""
    recorder = _recorder()
    if recorder is not None:
        # All sessions of a process share one recorder, which keeps everything: in a notebook, a second run would list
        # the nodes of the first. Kedro-Viz has no reset, but its constructor takes nothing and sets everything.
        recorder.__init__()
        recorder.after_catalog_created(catalog=catalog)  # which Kedro has announced already


def report_skipped(node: Node) -> None:
    """Records an up-to-date node and its data as done."""
    recorder = _recorder()
    if recorder is None:
        return
    for name in node.inputs:
        if not is_parameter(name):
            recorder.after_dataset_loaded(dataset_name=name, data=True)
    recorder.before_node_run(node=node)
    recorder.after_node_run(node=node)
    for name in node.outputs:
        recorder.after_dataset_saved(dataset_name=name, data=True)


def report_failed(node: Node) -> None:
    """Lets the record of a run's failure name this node, and not the one that began last."""
    recorder = _recorder()
    if recorder is not None:
        recorder.before_node_run(node=node)


def read_statistics(project: Path) -> dict[str, Any]:
    """Returns Kedro-Viz's statistics of the data, as the last run left them."""
    try:
        content = json.loads((project / STATISTICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def keep_statistics(project: Path, before: dict[str, Any]) -> None:
    """Puts back the statistics of data that this run did not load or save, and removes what a killed run left there."""
    file = project / STATISTICS
    sweep(file.parent)
    now = read_statistics(project)
    # All runs of a project share this file and no lock guards it. If another run has just removed the temporary
    # file, or the disk is full, the page of statistics is out of date, but a run that has done its work must not fail.
    if before.keys() - now.keys():
        with contextlib.suppress(OSError), atomic_write(file) as temporary:
            temporary.write_text(json.dumps({**before, **now}), encoding="utf-8")


def _recorder() -> Any:
    # Looked up instead of imported: Kedro loads the plugins that are installed, and Kedro-Viz may be absent.
    hooks = sys.modules.get("kedro_viz.integrations.kedro.run_hooks")
    return getattr(hooks, "pipeline_run_hook", None)
