"""The book-keeping around the steps: agreement between processes, rows, evaluations, files."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ssdd.files import sha256_file
from ssdd.parameters import TrainConfig
from ssdd.training import nonfinite
from ssdd.training.batches import Batch
from ssdd.training.history import read_timings, write_rows, write_timings
from ssdd.training.interface import AdversaryStep, TrainingStep
from ssdd.training.optim import swapped, usable_weights
from ssdd.training.resume_state import Best, StateStore, TrainingState
from ssdd.training.trackers import log_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found: figures by name, and images to look at, (N, 3, H, W) in [-1, 1]."""

    metrics: dict[str, float]
    images: Tensor | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a run left its results; `best` is the last checkpoint where nothing was evaluated."""

    step: int
    last: Path
    best: Path
    best_value: float | None
    history: Path
    timings: Path


Evaluate = Callable[[Accelerator], Evaluation]
Export = Callable[[Path], None]


class Run:
    """The book-keeping around the steps: agreement between processes, rows, evaluations, files."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrainConfig,
        folder: Path,
        store: StateStore,
        state: TrainingState,
        step: TrainingStep,
        export: Export,
        evaluate: Evaluate | None,
        steps_per_epoch: int,
    ):
        self.accelerator, self.config, self.folder = accelerator, config, folder
        self.store, self.state, self.step = store, state, step
        self.export, self.evaluate, self.steps_per_epoch = export, evaluate, steps_per_epoch
        self.trained = [p for p in step.parameters() if p.requires_grad]
        self.timings = read_timings(folder / "timings.csv", state.progress.step)
        self.seconds = 0.0

    def agree(
        self, terms: dict[str, Tensor], batch: Batch, signal_number: int = 0, seen: Sequence[dict[str, Tensor]] = ()
    ) -> tuple[dict[str, float], int]:
        """Averages the figures over processes; all stop together at a value that is not finite or a signal.

        Args:
            terms: scalars by name.
            batch: of this step, for the file that a failure leaves.
            signal_number: that this process received.
            seen: in the discriminator's turn, what it was shown, piece by piece: that goes into the file instead.

        Returns:
            The averages, and the signal that any process received (0: none).
        """
        values = torch.stack([*terms.values(), torch.tensor(float(signal_number), device=self.accelerator.device)])
        table = self.accelerator.gather(values[None]).double().cpu()  # (processes, figures)
        rows = [dict(zip(terms, row.tolist(), strict=False)) for row in table]
        for rank, row in enumerate(rows):
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
        if seen:
            batch = {k: torch.cat([piece[k] for piece in seen]) for k in seen[0]} | {"path": batch["path"]}
        if rank == self.accelerator.process_index:
            about = {"fingerprint": self.store.fingerprint, "config": self.config.model_dump()}
            return nonfinite.report(name, done, batch, row, self.step, self.folder, rank, about)
        time.sleep(5)  # lets the process that has the story tell it first
        return nonfinite.NotFiniteError(f"{name} is not finite in step {done} on rank {rank}")

    def answer(
        self, opponent: tuple[Any, Any], adversary: AdversaryStep, seen: list[dict[str, Tensor]], batch: Batch
    ) -> dict[str, float]:
        """Lets the discriminator make its step after the main one."""
        if not adversary.active(self.state.progress.step):
            return {"discriminator": 0.0}
        network, optimizer = opponent
        loss = torch.zeros((), device=self.accelerator.device)
        for number, piece in enumerate(seen, 1):
            with nullcontext() if number == len(seen) else self.accelerator.no_sync(network):
                part = network(piece) / len(seen)
                self.accelerator.backward(part)
            loss += part.detach().float()
        self.accelerator.clip_grad_norm_(list(adversary.parameters()), self.config.optim.clip)
        figures, _ = self.agree({"discriminator": loss}, batch, seen=seen)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return figures

    def record(self, figures: dict[str, float], lr: float, seconds: float) -> None:
        """Adds a step to the row under way; every `log_every` steps the row is complete."""
        progress = self.state.progress
        for name, value in figures.items():
            progress.pending[name] = progress.pending.get(name, 0.0) + value
        progress.pending_steps += 1
        self.seconds += seconds
        if progress.step % self.config.log_every:
            return
        means = {name: value / progress.pending_steps for name, value in progress.pending.items()}
        self._add_row("train", {"lr": lr, **means})
        speed = progress.pending_steps * self.config.batch_size / max(self.seconds, 1e-9)
        self.timings.append({"step": progress.step, "seconds": self.seconds, "images_per_second": speed})
        progress.pending, progress.pending_steps, self.seconds = {}, 0, 0.0

    def _add_row(self, split_name: str, figures: dict[str, float]) -> None:
        step = self.state.progress.step
        epoch = step / self.steps_per_epoch
        self.state.progress.history.append({"step": step, "epoch": epoch, "split": split_name, **figures})
        self.accelerator.log({f"{split_name}/{name}": value for name, value in figures.items()}, step=step)

    def evaluation_due(self) -> bool:
        """Says whether an epoch that is to be evaluated has just ended and was not evaluated yet."""
        epochs, rest = divmod(self.state.progress.step, self.steps_per_epoch)
        done = self.state.progress.evaluated_step >= self.state.progress.step
        if self.evaluate is None or done or rest:
            return False
        return epochs % self.config.eval_every == 0 or epochs == self.config.epochs

    def evaluate_if_due(self) -> None:
        """Evaluates and saves the averaged weights; training weights are afterwards what they were."""
        if self.evaluate is None or not self.evaluation_due():
            return
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
        progress, name = self.state.progress, self.config.best_metric
        if name not in metrics:
            raise ValueError(f"expected best_metric among the evaluation's {sorted(metrics)}, got {name!r}")
        sign = 1 if self.config.best_is == "lowest" else -1
        if progress.best is None or sign * metrics[name] < sign * progress.best.value:
            path = self.folder / f"best-{progress.step:08d}.safetensors"
            self.export(path)
            progress.best = Best(metrics[name], progress.step, path.name, sha256_file(path))

    def _final_weights(self) -> list[Tensor]:
        """Returns what evaluation and checkpoints use: the moving average where it has begun."""
        if self.state.ema.average is not None:
            return self.state.ema.average
        return usable_weights(self.state.optimizers["main"], self.state.averaged)

    def save(self) -> None:
        """Writes state and rows; rank 0 alone, the others wait."""
        if self.accelerator.is_main_process:
            self.store.save(self.state)
            write_rows(self.folder / "history.csv", self.state.progress.history)
            write_timings(self.folder / "timings.csv", self.timings)
            self._drop_old_best()
        self.accelerator.wait_for_everyone()

    def _drop_old_best(self) -> None:
        """Keeps the best checkpoint of this state and of the one before; later ones are of other runs."""
        best, here = self.state.progress.best, f"best-{self.state.progress.step:08d}.safetensors"
        names = sorted((p.name for p in self.folder.glob("best-*.safetensors")), reverse=True)
        kept = [name for name in names if name <= here][:2] + ([best.file] if best else [])
        for name in set(names) - set(kept):
            (self.folder / name).unlink(missing_ok=True)

    def finish(self) -> TrainResult:
        """Leaves the last checkpoint, state and history, also where all steps were done before."""
        if self.accelerator.is_main_process:
            with swapped(self.state.averaged, self._final_weights()):
                self.export(self.folder / "last.safetensors")
        self.save()
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
