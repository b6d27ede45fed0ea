"""Trainings that need nothing of each other run side by side, each in a process of its own.

One training of a small network gains little from a second core; two trainings use both. The runner's own thread
decides, hashes and stamps as it does without this module. A thread for each training loads the node's inputs, calls its
function and saves its outputs, and `ssdd.own_process` gives the function's work a process. Every other node waits until
no training runs, because it may use all cores, or measure time.
"""

import logging
import signal
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from ssdd.deadlines import WORKERS_END, Deadline, Stopped, waits_in_peace
from ssdd.lineage.viz_records import report_failed

logger = logging.getLogger(__name__)

TAG = "training"  # of nodes whose work is one call of `ssdd.processes.launch`

_LOOK = 0.5  # seconds after which a waiting thread notices Ctrl-C, where the system does not wake it


def independent(pipeline: Pipeline, running: Collection[str]) -> set[str]:
    """Returns the names of the trainings that could run while another one does.

    Args:
        pipeline: the nodes.
        running: names of the nodes that may run.
    """
    trainings = [node for node in pipeline.nodes if TAG in node.tags and node.name in running]
    above: dict[str, set[str]] = {}
    for node in pipeline.nodes:  # in an order in which parents come first
        parents = pipeline.node_dependencies[node]
        above[node.name] = {parent.name for parent in parents}.union(*(above[parent.name] for parent in parents))
    return {
        one.name
        for one in trainings
        for other in trainings
        if one is not other and one.name not in above[other.name] and other.name not in above[one.name]
    }


class SideBySide:
    """The order in which a run's nodes are decided about, and the trainings among them that run in the background.

    Args:
        pipeline: the nodes.
        names: of the trainings that may run in the background.
        most: how many of them at a time.
    """

    def __init__(self, pipeline: Pipeline, names: Collection[str], most: int) -> None:
        self.names = names
        self._pipeline, self._most = pipeline, most
        self._running: dict[Future[None], tuple[Node, Callable[[], None]]] = {}
        self._patience = ExitStack()

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._most)
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._patience, waits_in_peace():
            stopped = [node.name for future, (node, _) in self._running.items() if not future.done()]
            if stopped:  # after an error or a signal
                logger.info("stopping: %s", ", ".join(stopped))
            while any(not future.done() for future in self._running):
                from ssdd.own_process import stop_own_processes

                stop_own_processes()  # again and again: a process may start just now
                wait(self._running, _LOOK)
            self._pool.shutdown()
        if stopped and isinstance(error, KeyboardInterrupt):
            # As a training in this process leaves that has saved its state.
            number = error.number if isinstance(error, Stopped) else signal.SIGINT
            raise SystemExit(128 + number) from error

    def nodes(self) -> Iterator[Node]:
        """Yields every node once its inputs are finished, in the pipeline's order where trainings allow it."""
        left = list(self._pipeline.nodes)
        while left:
            node = self._next(left)
            if node is None:
                self._wait()
            else:
                left.remove(node)
                yield node
        while self._running:
            self._wait()

    def start(self, node: Node, call: Callable[[], None], finish: Callable[[], None]) -> None:
        """Runs a node in the background.

        Args:
            node: one of `names`.
            call: its work, in a thread.
            finish: in the runner's thread, when the work has succeeded.
        """
        from ssdd.own_process import own_process  # here, since it imports torch

        if not self._running:
            self._patience.enter_context(Deadline.patience(WORKERS_END))

        def work() -> None:
            with own_process(self._most):
                call()

        self._running[self._pool.submit(work)] = (node, finish)

    def _next(self, left: list[Node]) -> Node | None:
        """Returns the first node that may begin now."""
        unfinished = {node.name for node in left} | {node.name for node, _ in self._running.values()}
        for node in left:
            if any(parent.name in unfinished for parent in self._pipeline.node_dependencies[node]):
                continue
            if not self._running or (node.name in self.names and len(self._running) < self._most):
                return node
        return None

    def _wait(self) -> None:
        """Waits until a training ends, and finishes it."""
        done: set[Future[None]] = set()
        while not done:
            done, _ = wait(self._running, _LOOK, FIRST_COMPLETED)
        for future in sorted(done, key=lambda future: future.exception() is not None):  # what has succeeded, first
            node, finish = self._running.pop(future)
            if future.exception() is not None:
                report_failed(node)
            future.result()
            finish()
        if not self._running:
            self._patience.close()
