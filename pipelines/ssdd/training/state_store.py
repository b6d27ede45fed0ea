"""The files of resume states: sealed (`ssdd.training.sealed`), tensors as tensors, the rest as JSON, nothing pickled.

A state is one file, or one file of each rank where the optimiser is divided among the ranks; such a state counts only
when the files of all ranks are there. The last two states are kept, and the newest sound one is used.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from ssdd.files import sha256_file
from ssdd.training.resume_state import Snapshot, TrainingState
from ssdd.training.sealed import SealedStore

log = logging.getLogger(__name__)

KEPT = 2  # the newest may be damaged, by the power cut that also ended the run


class StateStore(SealedStore):
    """The folder where one run keeps its resume states.

    Args:
        folder: the run's own.
        fingerprint: of everything that decides the result, except the number of epochs.
        rank, ranks: of this process, among those that write a file each.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str, rank: int = 0, ranks: int = 1):
        super().__init__(folder, "state", fingerprint)
        self.rank, self.ranks = rank, ranks

    def save(self, state: Snapshot) -> Path:
        """Writes the state, or this rank's part of it, whole or not at all; rank 0 then drops older ones.

        Raises:
            OSError: the disk is full or not writable; earlier states are intact.
        """
        step = f"{state.step:08d}"
        numbers = step if self.ranks == 1 else f"{step}-{self.rank:04d}-{self.ranks:04d}"
        # Rank 0 alone knows of the best checkpoint. What else is in a document, all ranks have alike.
        document = state.document if self.rank == 0 else {"progress": {"step": state.step}}
        final = self.write(numbers, state.tensors, document)
        for path in self.paths():  # of the same step before its evaluation
            if path != final and self.numbers(path) == self.numbers(final):
                path.unlink(missing_ok=True)
        if self.rank == 0:
            self.prune(state.step)
        return final

    def prune(self, step: int) -> None:
        """Drops all but the last two states up to a step, and those of which other ranks still write files.

        States of later steps belong to a run of more epochs or of another fingerprint. They are dropped too: they would
        always be the newest ones, and the states of this run would be dropped instead.
        """
        files = self._files()
        whole = [key for key, paths in files.items() if key[0] <= step and self._is_whole(paths)]
        # of one step, that of this number of ranks
        newest = {key[0]: key for key in sorted(whole, key=lambda key: (key[0], key[1] == self.ranks))}
        kept, last = list(newest.values())[-KEPT:], max(newest, default=-1)
        for key, paths in files.items():
            if key not in kept and not last < key[0] <= step:
                self._drop(paths)

    def newest(self, last_step: int) -> list[Path]:
        """Returns the files, rank by rank, of the newest sound state of this fingerprint; none if there is no such.

        Args:
            last_step: states of later steps do not count.
        """
        found: dict[tuple[int, int], dict[int, Path]] = {}
        for path, document in self.documents(newest_first=True):
            step, rank, ranks = self._place(path)
            if step > last_step:
                continue
            if rank == 0 and not self._best_is_there(document["progress"]["best"]):
                log.warning("the best checkpoint named by %s is gone or damaged: left aside", path)
                continue
            parts = found.setdefault((step, ranks), {})
            parts[rank] = path
            if len(parts) == ranks:
                return [parts[number] for number in range(ranks)]
        return []

    def restore(self, state: TrainingState, files: Sequence[Path]) -> None:
        """Restores a state from its files, which were found sound."""
        tensors: dict[str, Tensor] = {}
        for path in files:
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys() if state.wants(name)}  # noqa: SIM118
        state.restore(tensors, self.document(files[0]))

    def load(self, state: TrainingState, last_step: int) -> bool:
        """Restores the newest sound state of this fingerprint that is not past `last_step`.

        Returns:
            False when there is none: the run starts from the beginning.
        """
        files = self.newest(last_step)
        if files:
            self.restore(state, files)
        return bool(files)

    def drop_parts(self, after: int, last_step: int) -> None:
        """Drops the files of single ranks that belong to steps which a run is about to do again.

        Otherwise a state could consist of files of two runs, if the second one is killed while it writes.

        Args:
            after: step from which the run goes on.
            last_step: of the run.
        """
        for (step, ranks), paths in self._files().items():
            if ranks > 1 and after < step <= last_step:
                self._drop(paths)

    def _place(self, path: Path) -> tuple[int, int, int]:
        """Returns step, rank and ranks of a file, from its name."""
        step, *part = self.numbers(path)
        rank, ranks = part or (0, 1)
        return step, rank, ranks

    def _files(self) -> dict[tuple[int, int], list[Path]]:
        """Returns the files by step and number of ranks."""
        found: dict[tuple[int, int], list[Path]] = {}
        for path in filter(self.numbers, self.paths()):
            step, _, ranks = self._place(path)
            found.setdefault((step, ranks), []).append(path)
        return found

    def _is_whole(self, paths: Sequence[Path]) -> bool:
        """Whether the files of one step and number of ranks are those of all ranks."""
        places = [self._place(path) for path in paths]
        return len({rank for _, rank, _ in places}) == places[0][2]

    def _drop(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)

    def _best_is_there(self, best: dict[str, Any] | None) -> bool:
        if best is None:
            return True
        path = self.folder / best["file"]
        return path.is_file() and sha256_file(path) == best["sha256"]
