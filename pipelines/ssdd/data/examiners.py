"""The workers that read and decode the images of a pass: this process, its child processes, the ranks of torchrun."""

import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain

from ssdd.data.decoding import BadImage
from ssdd.data.source import ImageFacts, Rejection, Source

TASK = 32  # images of one task
TASKS = 8  # for each worker at a time

Found = ImageFacts | Rejection


class Examiners:
    """Workers that examine the images of a source; enter it to start them.

    Args:
        source: the images.
        workers: child processes of each rank; 0 works in this process.
        rank: this one. Rank 0 calls `examine`, each other one `serve`.
        ranks: how many share the work.
    """

    def __init__(self, source: Source, workers: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.source, self.workers, self.rank, self.ranks = source, workers, rank, ranks
        self._pool: Executor | None = None

    @property
    def portion(self) -> int:
        """How many images keep all workers busy."""
        return TASK * TASKS * max(self.workers, 1) * self.ranks

    def __enter__(self) -> "Examiners":
        self.source.preload()  # before the fork, so that all processes share the memory
        if self.workers:
            self._pool = _pool(self.source, self.workers)
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        if kind is None and self.rank == 0 and self.ranks > 1:
            _broadcast([])

    def examine(self, names: Sequence[str]) -> list[Found]:
        """Returns the facts of some images, in their order.

        Raises:
            ChildProcessError: a worker was killed.
        """
        if self.ranks == 1 or not names:
            return self._examine(names)
        from ssdd.processes import gather

        _broadcast(list(names))
        found: list[Found] = [None] * len(names)  # type: ignore[list-item]
        for rank, part in enumerate(gather(self._examine(names[:: self.ranks]))):
            found[rank :: self.ranks] = part
        return found

    def serve(self) -> None:
        """Examines this rank's share of what rank 0 examines, until rank 0 is done."""
        from ssdd.processes import gather

        while names := _broadcast(None):
            gather(self._examine(names[self.rank :: self.ranks]))

    def _examine(self, names: Sequence[str]) -> list[Found]:
        if self._pool is None:
            return examine(self.source, names)
        tasks = [names[start : start + TASK] for start in range(0, len(names), TASK)]
        try:
            return list(chain.from_iterable(self._map(tasks)))
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process that decodes images was killed, as for want of memory: lower runtime.workers, and run "
                "again; what was read so far is kept"
            ) from error

    def _map(self, tasks: list[Sequence[str]]) -> Iterable[list[Found]]:
        assert self._pool is not None
        if isinstance(self._pool, ProcessPoolExecutor):
            return self._pool.map(_examine_here, tasks)
        return self._pool.map(lambda names: examine(self.source, names), tasks)


def examine(source: Source, names: Sequence[str]) -> list[Found]:
    """Reads and decodes images completely, one after the other."""
    found: list[Found] = []
    for name in names:
        try:
            found.append(source.examine(name))
        except BadImage as bad:
            found.append(Rejection.of(name, bad))
    return found


_source: Source | None = None  # of a child process


def _pool(source: Source, workers: int) -> Executor:
    # Decoding releases the interpreter's lock, but opening a small picture does not, so threads stop gaining at about
    # four. Elsewhere than on Linux a fork is not safe, and a child that imports everything anew costs seconds.
    if sys.platform != "linux":
        return ThreadPoolExecutor(workers, thread_name_prefix="index")
    context = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(workers, context, _begin, (source, os.getpid()))


def _begin(source: Source, parent: int) -> None:
    from ssdd.processes import watch_parent

    global _source
    _source = source
    # The parent alone answers signals, and ends its children. They end too if it is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    watch_parent(parent)
    warnings.simplefilter("ignore")


def _examine_here(names: Sequence[str]) -> list[Found]:
    assert _source is not None
    return examine(_source, names)


def _broadcast(names: list[str] | None) -> list[str]:
    """Sends names from rank 0 to all ranks, and returns them; an empty list is the end."""
    import torch.distributed as distributed

    box = [names]
    distributed.broadcast_object_list(box)
    return box[0] or []
