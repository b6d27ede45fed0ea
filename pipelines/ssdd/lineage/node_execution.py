"""Executes one node, and stamps its outputs."""

import logging
import os
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kedro.pipeline.node import Node
from kedro.runner.task import Task

from ssdd.lineage.fingerprint import Fingerprints, Ingredients
from ssdd.lineage.loaded_code import check_loaded
from ssdd.lineage.packages import recorded
from ssdd.lineage.plan import Decision
from ssdd.lineage.provenance import command, commit, machine
from ssdd.lineage.ranks import TAG, Announcements, world_size
from ssdd.lineage.running_node import RunningNode, set_running_node
from ssdd.lineage.stamps import Stamp, write_stamp
from ssdd.lineage.state_folders import state_folder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """One execution of a node.

    Attributes:
        node, decision, task: see `NodeExecutor.begin`.
        now: the node's ingredients at the beginning.
        started, clock: the beginning, as a date and on the clock for durations.
    """

    node: Node
    decision: Decision
    task: Task
    now: Ingredients
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.perf_counter)


@dataclass
class NodeExecutor:
    """Executes the nodes of one run.

    Attributes:
        run_name: the run's name.
        run_folder: `data/<run_name>`.
        project: the project's folder.
        fingerprints: the ingredients of the nodes.
        provided: dataset -> the parameter that provides it, as written.
        announcements: for the other ranks under torchrun.
        discard_states: begin with empty state folders, on `--force`.
    """

    run_name: str
    run_folder: Path
    project: Path
    fingerprints: Fingerprints
    provided: dict[str, str]
    announcements: Announcements
    discard_states: bool
    _facts: dict[str, Any] = field(default_factory=dict)

    def begin(self, node: Node, decision: Decision, task: Task) -> Execution:
        """Begins a node: gathers what its outputs will be stamped with.

        Args:
            node: the node; `call` and `finish` follow.
            decision: why it runs.
            task: Kedro's, which loads, calls, saves and calls the hooks.

        Raises:
            ValueError: the node's code was edited after it was loaded.
        """
        # Inputs are hashed here and not taken from the plan: the plan may be hours old, and a stamp must name the
        # content that the node loads now.
        now = self.fingerprints.of(node)
        check_loaded(now.identity.code)
        logger.info("%s: %s (%s)", decision.action, node.name, decision.why)
        return Execution(node, decision, task, now)

    def call(self, execution: Execution) -> None:
        """Loads a node's inputs, calls it and saves its outputs; the one part that may run in another thread."""
        node, now = execution.node, execution.now
        fingerprint, extends = now.identity.fingerprint, now.parameters.extends
        running = RunningNode(
            node.name,
            self.run_name,
            self.run_folder,
            fingerprint,
            now.identity.method,
            extends,
            discard_state=self.discard_states,
        )
        try:
            with set_running_node(running):
                if TAG in node.tags and world_size() > 1:
                    state_folder()  # emptied here, if it must be, before the other ranks read it
                    self.announcements.announce(running)
                execution.task.execute()
        except Exception:
            logger.error("failed: %s; the results of earlier nodes are kept", node.name)
            raise

    def finish(self, execution: Execution) -> None:
        """Stamps the outputs of a node that has run.

        Raises:
            ValueError: an output was not saved.
        """
        node, now = execution.node, execution.now
        seconds = time.perf_counter() - execution.clock
        about = {
            "run": self.run_name,
            "action": execution.decision.action,
            "why": execution.decision.reasons,
            "started": execution.started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "given": {name: self.provided[name] for name in node.inputs if name in self.provided},
            "neutral": now.parameters.neutral,
            **self._common_facts(),
        }
        self._stamp(node, now, about)
        logger.info("done: %s in %.1f s", node.name, time.perf_counter() - execution.clock)

    def _stamp(self, node: Node, now: Ingredients, about: dict[str, Any]) -> None:
        # After all outputs are saved: if the node is killed in between, none of its outputs counts as finished.
        for name, path in self.fingerprints.output_files(node).items():
            content = self.fingerprints.hash_file(path)
            if path is None or content is None:
                raise ValueError(
                    f"expected the node {node.name!r} to have saved {name!r} at {path}, found nothing there"
                )
            files = {item: self._portable(file, path.parent) for item, file in now.files.items()}
            stamp = Stamp(name, node.name, content, now.identity, now.parameters.extends, {**about, "files": files})
            write_stamp(path, stamp)

    def _portable(self, file: str, folder: Path) -> str:
        """A file of the project relative to `folder`, so that projects can be moved; other files unchanged."""
        # with slashes on every system: the folder may move to another
        return Path(os.path.relpath(file, folder)).as_posix() if Path(file).is_relative_to(self.project) else file

    def _common_facts(self) -> dict[str, Any]:
        if not self._facts:  # once for each run: git is slow in a large checkout
            self._facts = {**commit(self.project), "command": command(), "packages": recorded()}
        # The machine each time: its GPUs are known only after a node has loaded torch.
        return {**self._facts, "machine": machine()}
