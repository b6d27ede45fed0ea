"""The project's runner: one node after the other, each only if what it is made of has changed.

`kedro run`, sessions and notebooks all use it (see `ssdd.settings`). Before a node runs, its parameters,
inputs, code and outputs are compared with the stamps beside its outputs; after it has run, they are stamped
anew. Decisions are taken one by one, so a node whose input was remade byte for byte is skipped.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import rich
from kedro.framework import project as kedro_project
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from kedro.runner import SequentialRunner
from kedro.runner.task import Task
from kedro.utils import find_kedro_project
from pluggy import PluginManager

from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.edited_code import check_loaded
from ssdd.lineage.environment import command, commit, machine
from ssdd.lineage.fingerprint import Fingerprints
from ssdd.lineage.given import Given, StartingPoint, resolve, start_from, written_points
from ssdd.lineage.lock import lock_run
from ssdd.lineage.packages import recorded
from ssdd.lineage.plan import Decision, as_table, decide, feeds_only, plan
from ssdd.lineage.ranks import TAG, Announcements, load_inputs, rank, world_size
from ssdd.lineage.running_node import Current, running, state_folder
from ssdd.lineage.stamps import Stamp, write_stamp
from ssdd.lineage.viz_status import report_skipped
from ssdd.runs import check_run_name, hash_cache, run_folder, sweep

logger = logging.getLogger(__name__)


class LineageRunner(SequentialRunner):
    """Runs what is stale.

    Args:
        plan: only print what would run and why.
        force: run every node, whatever holds; resume states are discarded.
        is_async: load and save in threads.
        project: the project's folder; found from the working directory when not given.
    """

    def __init__(
        self,
        plan: bool = False,
        force: bool = False,
        is_async: bool = False,
        project: Path | str | None = None,
    ) -> None:
        super().__init__(is_async=is_async)
        self._only_plan = plan
        self._force = force
        self._project = Path(project) if project else find_kedro_project(Path.cwd()) or Path.cwd()

    def __str__(self) -> str:
        if self._only_plan or rank() > 0:
            return f"<{type(self).__name__} that records nothing>"
        # Kedro-Viz records the run's status where it reads Kedro's own name.
        return f"<{type(self).__name__}, a kedro.runner.sequential_runner.SequentialRunner object>"

    def run(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
        only_missing_outputs: bool = False,
    ) -> dict[str, Any]:
        """Runs what is stale of the pipeline, or prints what would be.

        Returns:
            The pipeline's outputs, as datasets (none for a plan).

        Raises:
            ValueError: the run's name, an input or a starting point is not as expected, or the run is in use.
        """
        if self._only_plan and only_missing_outputs:
            raise ValueError(
                "expected --plan or --only-missing-outputs, got both: a plan shows what a run without "
                "--only-missing-outputs would do, leave one of them out"
            )
        parameters = catalog.load("parameters") if "parameters" in catalog else {}
        self._run_name = check_run_name(parameters.get("run_name", "default"))
        self._folder = run_folder(self._project, self._run_name)
        pipeline = self._start(pipeline, catalog, parameters)
        with Hashes(hash_cache(self._project)) as self._hashes:
            if self._only_plan:
                if rank() > 0:
                    return {}
                self._warm_up(pipeline, catalog)
                fingerprints = Fingerprints(pipeline, catalog, self._hashes, kedro_project.PACKAGE_NAME)
                decisions = plan(pipeline, fingerprints, self._folder, self._force)
                self._ask_project(["BEFORE_PLAN"], decisions, pipeline, catalog)
                rich.print(as_table(decisions))
                return {}
            self._announcements = Announcements()
            if rank() > 0:
                self._join(pipeline, catalog)
                return {}
            with lock_run(self._folder, command()), _stop_on_sigterm():
                sweep(self._folder)
                result = super().run(pipeline, catalog, hook_manager, run_id, only_missing_outputs)
                self._announcements.end()
                return result

    def _join(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Another rank than 0: takes part in the joint nodes until rank 0 has done all."""
        self._warm_up(pipeline, catalog)
        nodes = {node.name: node for node in pipeline.nodes}
        while (told := self._announcements.next())["node"] is not None:
            node = nodes[told["node"]]
            inputs = load_inputs(node, pipeline, catalog)
            here = Current(node.name, self._run_name, self._folder, told["fingerprint"], told["extends"], joined=True)
            with running(here):
                node.run(inputs)

    def _start(self, pipeline: Pipeline, catalog: CatalogProtocol, parameters: dict[str, Any]) -> Pipeline:
        known = starting_points()
        points: dict[str, tuple[StartingPoint, Given]] = {}
        for name, written in written_points(parameters, known).items():
            given = resolve(name, written, known[name], catalog, self._project, self._run_name)
            points[name] = (known[name], given)
            logger.info("starting from %s: %s", given, given.file)
        self._given = {given.dataset: str(given) for _, given in points.values()}
        return start_from(pipeline, catalog, points) if points else pipeline

    @staticmethod
    def _warm_up(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        for name in pipeline.datasets():
            catalog.get(name, fallback_to_runtime_pattern=True)

    def _run(
        self,
        pipeline: Pipeline,
        catalog: CatalogProtocol,
        hook_manager: PluginManager | None = None,
        run_id: str | None = None,
    ) -> None:
        self._facts: dict[str, Any] | None = None
        self._fingerprints = Fingerprints(pipeline, catalog, self._hashes, kedro_project.PACKAGE_NAME)
        feeders: list[Node] = []
        done: set[str] = set()

        def execute(node: Node, decision: Decision) -> None:
            for feeder in feeders:
                if feeder.name not in done and set(feeder.outputs) & set(node.inputs):
                    made = self._fingerprints.of(feeder)
                    execute(feeder, Decision(feeder.name, "run", [f"feeds {node.name}"], made))
            done.add(node.name)
            self._execute(node, decision, Task(node, catalog, self._is_async, hook_manager, run_id))

        for node in pipeline.nodes:
            if feeds_only(node, pipeline, self._fingerprints) and not self._force:
                feeders.append(node)
                continue
            decision = decide(node, self._fingerprints, self._folder, self._force)
            if decision.runs:
                if not done:
                    decisions = plan(pipeline, self._fingerprints, self._folder, self._force)
                    self._ask_project(["BEFORE_PLAN", "BEFORE_RUN"], decisions, pipeline, catalog)
                execute(node, decision)
            else:
                logger.info("up to date: %s", node.name)
                report_skipped(node, hook_manager)
                if self._fingerprints.in_memory_outputs(node):
                    feeders.append(node)
        for node in feeders:
            if node.name not in done:
                report_skipped(node, hook_manager)
        if not done:
            logger.info("nothing to do: run %r is up to date", self._run_name)

    @staticmethod
    def _ask_project(
        checks: list[str], decisions: list[Decision], pipeline: Pipeline, catalog: CatalogProtocol
    ) -> None:
        """Lets the project look for what the nodes that may run need, before the first of them runs."""
        idle = {decision.node for decision in decisions if decision.action in ("up to date", "not needed")}
        nodes = [node for node in pipeline.nodes if node.name not in idle]
        for name in checks:
            check = getattr(_settings(), name, None)
            if check is not None:
                check(nodes, catalog)

    def _execute(self, node: Node, decision: Decision, task: Task) -> None:
        made = decision.made
        if made is None:
            raise AssertionError("a decision to run says what the node is made of")
        check_loaded(made.identity.code)
        logger.info("%s: %s (%s)", decision.action, node.name, decision.why)
        started, clock = datetime.now(UTC), time.perf_counter()
        here = Current(
            node.name,
            self._run_name,
            self._folder,
            made.identity.fingerprint,
            made.parameters.extends,
            anew=self._force,
        )
        try:
            with running(here):
                if TAG in node.tags and world_size() > 1:
                    state_folder()  # before the others look into it
                    self._announcements.announce(here)
                task.execute()
        except Exception:
            logger.error("failed: %s; what was finished before it is kept", node.name)
            raise
        about = {
            "run": self._run_name,
            "action": decision.action,
            "why": decision.reasons,
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            "given": {name: self._given[name] for name in node.inputs if name in self._given},
            "neutral": made.parameters.neutral,
            **self._common_facts(),
        }
        for name, path in self._fingerprints.output_files(node).items():
            content = self._fingerprints.hash_file(path)
            if path is None or content is None:
                raise ValueError(
                    f"expected the node {node.name!r} to have saved {name!r} at {path}, found nothing there"
                )
            files = {item: self._portable(file, path.parent) for item, file in made.files.items()}
            stamp = Stamp(name, node.name, content, made.identity, made.parameters.extends, {**about, "files": files})
            write_stamp(path, stamp)
        logger.info("done: %s in %.1f s", node.name, time.perf_counter() - clock)

    def _portable(self, file: str, folder: Path) -> str:
        """A file of the project relative to `folder`, so that projects can be moved; others as they are."""
        return os.path.relpath(file, folder) if Path(file).is_relative_to(self._project) else file

    def _common_facts(self) -> dict[str, Any]:
        if self._facts is None:
            self._facts = {**commit(self._project), "command": command(), "packages": recorded()}
        return {**self._facts, "machine": machine()}


def starting_points() -> dict[str, StartingPoint]:
    """Returns the project's starting points, from its settings."""
    return dict(getattr(_settings(), "STARTING_POINTS", {}))


def _settings() -> Any:
    package = kedro_project.PACKAGE_NAME
    return import_module(f"{package}.settings") if package else None


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM end the run as Ctrl-C does: temporary files are removed, the lock is set free."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:
            signal.signal(signal.SIGTERM, before)
