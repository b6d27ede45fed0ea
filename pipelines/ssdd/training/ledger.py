"""The ledger of a run: agreement between processes, rows, evaluations, and the files that a run leaves."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ssdd.evaluation.periodic import Evaluation
from ssdd.files import sha256_file
from ssdd.parameters import LoopParameters
from ssdd.training import nonfinite
from ssdd.training.background import Background
from ssdd.training.batches import Batch
from ssdd.training.history import Row, read_timings, write_rows, write_timings
from ssdd.training.interface import TrainingStep
from ssdd.training.optim import swapped, usable_weights
from ssdd.training.resume_state import Best, Snapshot, TrainingState
from ssdd.training.sharding import gathered
from ssdd.training.state_store import StateStore
from ssdd.training.trackers import log_images

SECONDS_FOR_REPORT = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The files of a finished run; `best` is the last checkpoint if nothing was evaluated."""

    step: int
    last: Path
    best: Path
    best_value: float | None
    history: Path
    timings: Path


Evaluate = Callable[[Accelerator], Evaluation]
Export = Callable[[Path], object]


class Ledger:
    """The book-keeping around the steps.

    Args:
        accelerator: the processes of the run.
        stage: how often to log and evaluate, and which metric chooses the best checkpoint.
        folder: the run's own.
        store: of the resume states.
        state: the live one.
        step: the training step.
        export: writes the exported networks to a path.
        evaluate: figures of the networks as they are.
        steps_per_epoch: optimiser steps.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        stage: LoopParameters,
        folder: Path,
        store: StateStore,
        state: TrainingState,
        step: TrainingStep,
        export: Export,
        evaluate: Evaluate | None,
        steps_per_epoch: int,
    ):
        self.accelerator, self.stage, self.folder = accelerator, stage, folder
        self.store, self.state, self.step = store, state, step
        self.export, self.evaluate, self.steps_per_epoch = export, evaluate, steps_per_epoch
        self.saving = Background()
        self._saved: Snapshot | None = None
        self.timings = read_timings(folder / "timings.csv", state.progress.step)
        self.seconds = self.waited = 0.0

    def agree(
        self, terms: dict[str, Tensor], batch: Batch, signal_number: int = 0, seen: Sequence[dict[str, Tensor]] = ()
    ) -> tuple[dict[str, float], int]:
        """Averages the figures over processes; all stop together if a value is not finite or a signal came.

        Figures, check and signal share one exchange, because each exchange costs a synchronisation with the device.

        Args:
            terms: scalars by name.
            batch: of this step, for the file of a failure.
            signal_number: that this process received.
            seen: in the discriminator's step, its input by pieces; the file of a failure holds it instead of `batch`.

        Returns:
            The averages, and the signal that any process received (0: none).
        """
        values = torch.stack([*terms.values(), torch.tensor(float(signal_number), device=self.accelerator.device)])
        table = self.accelerator.gather(values[None]).double().cpu()  # (processes, figures)
        rows = [dict(zip(terms, row.tolist(), strict=False)) for row in table]
        for rank, row in enumerate(rows):
            # With fp16 an infinite gradient is usual: the loss scaler skips the step and lowers its scale.
            checked = {k: v for k, v in row.items() if k != "gradient_norm" or self.state.scaler is None}
            name = nonfinite.first_bad(checked)
            if name is not None:
                raise self._not_finite(name, rank, row, batch, seen)
        means = table.mean(0).tolist()
        return dict(zip(terms, means, strict=False)), int(table[:, -1].max())

    def _not_finite(
        self, name: str, rank: int, row: dict[str, float], batch: Batch, seen: Sequence[dict[str, Tensor]]
    ) -> nonfinite.NotFiniteError:
        done = self.state.progress.step
        self.saving.wait()  # two threads must not write at once
        if seen:
            batch = {k: torch.cat([piece[k] for piece in seen]) for k in seen[0]} | {"path": batch["path"]}
        if rank == self.accelerator.process_index:
            about = {"fingerprint": self.store.fingerprint, "config": self.stage.model_dump()}
            return nonfinite.report(name, done, batch, row, self.step, self.folder, rank, about)
        # The launcher reports the process that fails first. That must be the rank of the value, which has the images.
        time.sleep(SECONDS_FOR_REPORT)
        return nonfinite.NotFiniteError(f"{name} is not finite in step {done} on rank {rank}")

    def record(self, figures: dict[str, float], lr: float, seconds: float, waited: float = 0.0) -> None:
        """Adds a step to the row under way; every `log_every` steps the row is complete.

        Args:
            figures: of the step.
            lr: its learning rate.
            seconds: that it took.
            waited: seconds of these in which this process waited for its batch.

        Raises:
            OSError: a state could not be written.
        """
        self.saving.check()
        progress = self.state.progress
        for name, value in figures.items():
            progress.pending[name] = progress.pending.get(name, 0.0) + value
        progress.pending_steps += 1
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited
        if progress.step % self.stage.log_every:
            return
        means = {name: value / progress.pending_steps for name, value in progress.pending.items()}
        self._add_row("train", {"lr": lr, **means})
        speed = progress.pending_steps * self.stage.batch_size / max(self.seconds, 1e-9)
        times = {"seconds": self.seconds, "data_seconds": self.waited}
        self.timings.append({"step": progress.step, **times, "images_per_second": speed})
        progress.pending, progress.pending_steps = {}, 0
        self.seconds = self.waited = 0.0

    def _add_row(self, split_name: str, figures: dict[str, float]) -> None:
        step = self.state.progress.step
        epoch = step / self.steps_per_epoch
        self.state.progress.history.append({"step": step, "epoch": epoch, "split": split_name, **figures})
        self.accelerator.log({f"{split_name}/{name}": value for name, value in figures.items()}, step=step)

    def evaluation_due(self) -> bool:
        """Says whether an epoch with an evaluation has just ended and was not evaluated yet."""
        epochs, rest = divmod(self.state.progress.step, self.steps_per_epoch)
        done = self.state.progress.evaluated_step >= self.state.progress.step
        if self.evaluate is None or done or rest:
            return False
        return epochs % self.stage.eval_every == 0 or epochs == self.stage.epochs

    def evaluate_if_due(self) -> None:
        """Evaluates and saves the averaged weights; the training weights are the same afterwards."""
        if self.evaluate is None or not self.evaluation_due():
            return
        # Before files are written that the state names, and before the loader of the images forks its workers.
        self.settle()
        progress = self.state.progress
        with swapped(self.state.averaged, self._final_weights()):
            self.step.eval()
            with torch.no_grad():
                found = self.evaluate(self.accelerator)
            self.step.train()
            if self.accelerator.is_main_process:
                self.export(self.folder / "last.safetensors")
                self._keep_if_best(found.metrics)
        progress.evaluated_step = progress.step
        self._add_row("eval", found.metrics)
        if found.images is not None:
            log_images(self.accelerator, "samples", found.images, progress.step)
        self.save()

    def _keep_if_best(self, metrics: dict[str, float]) -> None:
        progress, value = self.state.progress, metrics[self.stage.best_metric]
        sign = 1 if self.stage.best_is == "lowest" else -1
        if progress.best is None or sign * value < sign * progress.best.value:
            # Each step has a file of its own, whose hash is in the state. A run that is killed before it saves
            # continues from the previous state, whose best checkpoint must still be there, unchanged.
            path = self.folder / f"best-{progress.step:08d}.safetensors"
            self.export(path)
            progress.best = Best(value, progress.step, path.name, sha256_file(path))

    def _final_weights(self) -> list[Tensor]:
        """Returns the weights of evaluations and checkpoints: the moving average, once it has begun.

        All processes call it together: where the optimiser is divided, each has the averages of its own weights.
        """
        optimizer, weights = self.state.optimizers["main"], self.state.ema.average
        if weights is None:
            weights = usable_weights(optimizer, self.state.own_averaged())
        return gathered(optimizer, self.state.averaged, weights)

    def save(self) -> None:
        """Copies state and rows, and begins to write them in the background: rank 0 alone, or each rank its part.

        Raises:
            OSError: the state before could not be written.
        """
        if self.accelerator.is_main_process or self.store.ranks > 1:
            self.saving.wait()  # the copy before gives its memory
            self._saved = self.state.snapshot(self._saved, networks=self.accelerator.is_main_process)
            self.saving.begin(partial(self._write, self._saved, list(self.timings)))

    def settle(self) -> int:
        """Returns the number of steps so far when everything is written, in all processes.

        Raises:
            OSError: it could not be written.
        """
        self.saving.wait()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process and self.store.ranks > 1:
            self.store.prune(self.state.progress.step)  # now that all parts are there
        return self.state.progress.step

    def _write(self, state: Snapshot, timings: list[Row]) -> None:
        self.store.save(state)
        if not self.accelerator.is_main_process:
            return
        progress = state.document["progress"]
        write_rows(self.folder / "history.csv", progress["history"])
        write_timings(self.folder / "timings.csv", timings)
        self._drop_old_best(state.step, progress["best"])

    def _drop_old_best(self, step: int, best: dict[str, Any] | None) -> None:
        """Keeps the best checkpoint of this state and of the one before; later ones are of other runs."""
        here = f"best-{step:08d}.safetensors"
        names = sorted((p.name for p in self.folder.glob("best-*.safetensors")), reverse=True)
        kept = [name for name in names if name <= here][:2] + ([best["file"]] if best else [])
        for name in set(names) - set(kept):
            (self.folder / name).unlink(missing_ok=True)

    def finish(self) -> TrainResult:
        """Writes the last checkpoint, state and history, even if an earlier session has done all steps."""
        self.settle()
        weights = self._final_weights()
        if self.accelerator.is_main_process:
            with swapped(self.state.averaged, weights):
                self.export(self.folder / "last.safetensors")
        self.save()
        self.settle()
        for tracker in self.accelerator.trackers:
            tracker.finish()
        last, best = self.folder / "last.safetensors", self.state.progress.best
        return TrainResult(
            step=self.state.progress.step,
            last=last,
            best=self.folder / best.file if best else last,
            best_value=best.value if best else None,
            history=self.folder / "history.csv",
            timings=self.folder / "timings.csv",
        )
