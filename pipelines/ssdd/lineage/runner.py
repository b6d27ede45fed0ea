"""The project's runner: every node in its order, only if one of its ingredients has changed.

`kedro run`, sessions and notebooks all use it (see `ssdd.settings`). Before the first node runs, the ingredients
of every node are compared with the stamps next to its outputs; after a node has run, its outputs get new stamps.
A decision that depends on an input still to be made is completed when the input is there, so a node whose input
was remade byte for byte is skipped.
"""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

import rich
from kedro.framework import project as kedro_project
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner
from kedro.runner.task import Task
from pluggy import PluginManager

from ssdd.deadlines import Deadline, ends_on_sigterm, exits_with
from ssdd.launchers import adopt
from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.fingerprint import Fingerprints
from ssdd.lineage.node_execution import NodeExecutor
from ssdd.lineage.plan import Decision, as_table, decide, feeds_only, plan
from ssdd.lineage.project_folder import project_folder
from ssdd.lineage.project_rules import Check, find_project, find_rules
from ssdd.lineage.provenance import command
from ssdd.lineage.provided_datasets import find_provided, switched_off, use_provided
from ssdd.lineage.ranks import Announcements, join, rank
from ssdd.lineage.run_lock import lock_run
from ssdd.lineage.side_by_side import SideBySide, independent
from ssdd.lineage.viz_records import report_skipped
from ssdd.runs import check_run_name, hash_cache, run_folder, sweep

logger = logging.getLogger(__name__)


class LineageRunner(SequentialRunner):
    """Runs the nodes that are stale.

    Args:
        plan: only print which nodes would run, and why.
        force: run every node in any case; resume states are discarded.
        is_async: load and save in threads.
        project: the project's folder; when not given, the session's, or else the working directory's.
    """

    def __init__(
        self,
        plan: bool = False,
        force: bool = False,
        is_async: bool = False,
        project: Path | str | None = None,
    ) -> None:
        super().__init__(is_async=is_async)
        adopt()
        self._only_plan = plan
        self._force = force
        self._given_project = Path(project) if project else None

    def __str__(self) -> str:
        if self._only_plan or rank() > 0:
            return f"<{type(self).__name__} that records nothing>"
        # Kedro-Viz records the run's status only where it reads Kedro's own name.
        return f"<{type(self).__name__}, a kedro.runner.sequential_runner.SequentialRunner object>"

    def run(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
        only_missing_outputs: bool = False,
    ) -> dict[str, Any]:
        """Runs the stale nodes of the pipeline, or prints which they are.

        Returns:
            The pipeline's outputs, as datasets (none for a plan).

        Raises:
            ValueError: the run's name, an input or a provided dataset is not as expected, or the run is in use.
        """
        if self._only_plan and only_missing_outputs:
            raise ValueError(
                "expected --plan or --only-missing-outputs, got both: a plan shows what a run without "
                "--only-missing-outputs would do, leave one of them out"
            )
        self._project = self._given_project or find_project(hook_manager) or project_folder() or Path.cwd()
        pipeline = self._prepare(pipeline, catalog, hook_manager)
        with Hashes(hash_cache(self._project)) as self._hashes:
            if self._only_plan:
                if rank() == 0:
                    self._show_plan(pipeline, catalog, hook_manager)
                return {}
            self._announcements = Announcements()
            if rank() > 0:
                with exits_with(self._requeue_code), ends_on_sigterm():
                    _warm_up(pipeline, catalog)
                    join(self._announcements, pipeline, catalog, self._run_name, self._folder)
                return {}
            removal = partial(sweep, self._folder)
            with (
                exits_with(self._requeue_code),
                lock_run(self._folder, command()),
                ends_on_sigterm(),
                Deadline.removing(removal),
            ):
                sweep(self._folder)  # with the lock held: outside it, the files could be another run's
                result = super().run(pipeline, catalog, hook_manager, run_id, only_missing_outputs)
                self._announcements.end()
                return result

    def _prepare(self, pipeline: Pipeline, catalog: CatalogProtocol, hook_manager: PluginManager | None) -> Pipeline:
        """Sets the run's name and folder, and leaves out the nodes of provided datasets."""
        parameters = catalog.load("parameters") if "parameters" in catalog else {}
        self._run_name = check_run_name(parameters.get("run_name", "default"))
        self._folder = run_folder(self._project, self._run_name)
        # Kedro makes a model of it if a node takes it, and leaves a dict as it is otherwise.
        runtime = dict(parameters.get("runtime") or {})
        self._requeue_code = runtime.get("requeue_code")
        # Several ranks, or several processes of one training, use the machine already; a launcher's variables are of
        # this process alone.
        alone = "RANK" not in os.environ and runtime.get("processes", 1) == 1
        self._trainings = runtime.get("trainings_at_once", 1) if alone else 1
        rules = find_rules(hook_manager)
        provided = find_provided(parameters, rules.replaceable, catalog, self._project, self._run_name)
        for item in provided:
            logger.info("starting from %s: %s", item, item.file)
        self._provided = {item.replaced.dataset: str(item) for item in provided}
        off = switched_off(parameters, rules.switches)
        if not provided and not off:
            return pipeline
        known = [node for each in kedro_project.pipelines.values() for node in each.nodes]
        return use_provided(pipeline, catalog, provided, off, known)

    def _show_plan(self, pipeline: Pipeline, catalog: CatalogProtocol, hook_manager: PluginManager | None) -> None:
        _warm_up(pipeline, catalog)
        fingerprints = Fingerprints(pipeline, catalog, self._hashes, kedro_project.PACKAGE_NAME)
        decisions = plan(pipeline, fingerprints, self._folder, self._force)
        _check_project([find_rules(hook_manager).before_plan], decisions, pipeline, catalog)
        rich.print(as_table(decisions))

    def _run(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        fingerprints = Fingerprints(pipeline, catalog, self._hashes, kedro_project.PACKAGE_NAME)
        # The whole plan comes first: the project's checks get all nodes that may run, before the first one runs.
        decisions = {item.node: item for item in plan(pipeline, fingerprints, self._folder, self._force)}
        if any(decision.runs for decision in decisions.values()):
            rules = find_rules(hook_manager)
            _check_project([rules.before_plan, rules.before_run], list(decisions.values()), pipeline, catalog)
        executor = NodeExecutor(
            self._run_name, self._folder, self._project, fingerprints, self._provided, self._announcements, self._force
        )
        may_run = [name for name, decision in decisions.items() if decision.may_run]
        background = independent(pipeline, may_run) if self._trainings > 1 else ()
        trainings = SideBySide(pipeline, background, self._trainings)
        feeders: list[Node] = []  # skipped so far; their results in memory may still be needed
        done: set[str] = set()

        def execute(node: Node, decision: Decision, awaited: bool = False) -> None:
            for feeder in feeders:
                if feeder.name not in done and set(feeder.outputs) & set(node.inputs):
                    execute(feeder, Decision(feeder.name, "run", [f"feeds {node.name}"]), awaited=True)
            done.add(node.name)
            execution = executor.begin(node, decision, Task(node, catalog, self._is_async, hook_manager, run_id))
            if node.name in trainings.names and not awaited:
                trainings.start(node, partial(executor.call, execution), partial(executor.finish, execution))
            else:
                executor.call(execution)
                executor.finish(execution)

        with trainings:
            for node in trainings.nodes():
                if feeds_only(node, pipeline, fingerprints) and not self._force:
                    feeders.append(node)
                    continue
                decision = decisions[node.name]
                if decision.pending:  # by now its inputs are there
                    decision = decide(node, fingerprints, self._folder, self._force)
                if decision.runs:
                    execute(node, decision)
                else:
                    logger.info("up to date: %s", node.name)
                    report_skipped(node)
                    if fingerprints.in_memory_outputs(node):
                        feeders.append(node)
        # After the loop, since a node that uses a feeder's outputs may come much later.
        for node in feeders:
            if node.name not in done:
                report_skipped(node)
        if not done:
            logger.info("nothing to do: run %r is up to date", self._run_name)


def _warm_up(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    """Makes the datasets of the pipeline, as Kedro's runner does before a run."""
    for name in pipeline.datasets():
        catalog.get(name, fallback_to_runtime_pattern=True)


def _check_project(
    checks: list[Check | None], decisions: list[Decision], pipeline: Pipeline, catalog: CatalogProtocol
) -> None:
    """Lets the project check the needs of the nodes that may run, before hours are spent on the first of them."""
    may_run = {decision.node for decision in decisions if decision.may_run}
    nodes = [node for node in pipeline.nodes if node.name in may_run]
    for check in checks:
        if check is not None:
            check(nodes, catalog)
