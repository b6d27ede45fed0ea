"""The resume state: all that a run needs to go on exactly where it stopped, in one object, and its files.

A state is one sealed file (`ssdd.training.sealed`): tensors as tensors, the rest as JSON in the header, nothing
pickled. The last two states are kept, and the newest sound one is used. There is no random state: every draw is keyed
(`ssdd.noise`).
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from ssdd.files import sha256_file
from ssdd.training.ema import Ema
from ssdd.training.sealed import SealedStore

log = logging.getLogger(__name__)

KEPT = 2  # the newest may be damaged, by the power cut that also ended the run


@dataclasses.dataclass
class Best:
    """The best evaluation so far and its checkpoint: value, step, file name and SHA-256."""

    value: float
    step: int
    file: str
    sha256: str


@dataclasses.dataclass
class Progress:
    """The part of the state that is not tensors.

    `step` counts finished optimiser steps (the epoch and the position in it follow from it), `history` holds every row
    so far, and `pending` and `pending_steps` hold the sums that will become the next row. The rows are in the state,
    and not only in `history.csv`, so that a resumed run cannot have a row twice or miss one. Wall-clock figures are
    not in it: equal states must be equal bytes.
    """

    step: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pending: dict[str, float] = dataclasses.field(default_factory=dict)
    pending_steps: int = 0
    evaluated_step: int = 0
    best: Best | None = None


class TrainingState:
    """Weights, moving average, optimisers, loss scaler and progress of one run."""

    def __init__(
        self,
        networks: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        averaged: Sequence[nn.Parameter],
        ema: Ema,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.networks, self.optimizers, self.averaged = networks, optimizers, averaged
        self.ema, self.scaler, self.progress = ema, scaler, Progress()

    def tensors(self) -> dict[str, Tensor]:
        """Returns every tensor of the state by name (live tensors, not copies)."""
        found = {f"network.{n}.{k}": v for n, m in self.networks.items() for k, v in trained_tensors(m).items()}
        for name, optimizer in self.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                found |= {f"optimizer.{name}.{index}.{slot}": value for slot, value in slots.items()}
        for index, value in enumerate(self.ema.average or ()):
            found[f"ema.{index}"] = value
        return found

    def document(self) -> dict[str, Any]:
        """Returns everything that is not a tensor, ready for JSON."""
        groups = {
            name: [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        scaler = self.scaler.state_dict() if self.scaler is not None else None
        return {"progress": dataclasses.asdict(self.progress), "optimizers": groups, "scaler": scaler}

    def snapshot(self, earlier: "Snapshot | None" = None) -> "Snapshot":
        """Copies the state to the CPU; later steps do not change the copy.

        Args:
            earlier: a copy that is not needed any more, and gives its memory: on a CPU, new memory takes longer than
                the copy itself.
        """
        live, document = self.tensors(), self.document()
        spare = earlier.tensors if earlier is not None else {}
        copies = {name: _host_copy(value, spare.get(name)) for name, value in live.items()}
        if any(value.is_cuda for value in live.values()):
            torch.cuda.synchronize()
        return Snapshot(self.progress.step, copies, document)

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Copies a saved state into the live objects.

        Memory layouts stay those of the live tensors: another layout means another order of additions, and the resumed
        run would differ in its last digits.

        Raises:
            ValueError: the state belongs to other networks.
        """
        for name, module in self.networks.items():
            saved = _under(tensors, f"network.{name}.")
            restore_tensors(trained_tensors(module), saved, "remove the run's state files to start again")
        for name, optimizer in self.optimizers.items():
            _restore_optimizer(optimizer, _under(tensors, f"optimizer.{name}."), document["optimizers"][name])
        averages = _under(tensors, "ema.")
        if averages:
            self.ema.average = [_like(p, averages[str(i)]) for i, p in enumerate(self.averaged)]
        if self.scaler is not None:
            self.scaler.load_state_dict(document["scaler"])
        progress = dict(document["progress"])
        best = progress.pop("best")
        self.progress = Progress(**progress, best=Best(**best) if best else None)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A copy of a state: its step, its tensors on the CPU by name, and the rest, ready for JSON."""

    step: int
    tensors: dict[str, Tensor]
    document: dict[str, Any]


class StateStore(SealedStore):
    """The folder where one run keeps its resume states.

    Args:
        folder: the run's own.
        fingerprint: of everything that decides the result, except the number of epochs.
    """

    def __init__(self, folder: str | os.PathLike[str], fingerprint: str):
        super().__init__(folder, "state", fingerprint)

    def save(self, state: Snapshot) -> Path:
        """Writes the state whole or not at all, then drops all but the last two.

        Raises:
            OSError: the disk is full or not writable; earlier states are intact.
        """
        final = self.write(f"{state.step:08d}", state.tensors, state.document)
        # States of later steps belong to a run of more epochs or of another fingerprint. They are removed too:
        # they would always be the newest ones, and the states of this run would be removed instead.
        earlier = [path for path in self.paths() if path.name < final.name[: len("state-00000000")]]
        for path in self.paths():
            if path != final and path not in earlier[-(KEPT - 1) :]:
                path.unlink(missing_ok=True)
        return final

    def load(self, state: TrainingState, last_step: int) -> bool:
        """Restores the newest sound state of this fingerprint that is not past `last_step`.

        Returns:
            False when there is none: the run starts from the beginning.
        """
        for path, document in self.documents(newest_first=True):
            if document["progress"]["step"] > last_step:
                continue
            if not self._best_is_there(document["progress"]["best"]):
                log.warning("the best checkpoint named by %s is gone or damaged: left aside", path)
                continue
            with safe_open(path, framework="pt") as file:
                state.restore({name: file.get_tensor(name) for name in file.keys()}, document)  # noqa: SIM118
            return True
        return False

    def _best_is_there(self, best: dict[str, Any] | None) -> bool:
        if best is None:
            return True
        path = self.folder / best["file"]
        return path.is_file() and sha256_file(path) == best["sha256"]


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers of the children that train; frozen networks are left out."""
    # A frozen network comes from a checkpoint or a file that is checked by its hash; it would only make states larger.
    trained = [n for n, child in module.named_children() if any(p.requires_grad for p in child.parameters())]
    own = {n: p for n, p in module.named_parameters(recurse=False) if p.requires_grad}
    return own | {k: v for n in trained for k, v in module.get_submodule(n).state_dict(prefix=f"{n}.").items()}


def restore_tensors(live: Mapping[str, Tensor], saved: Mapping[str, Tensor], advice: str) -> None:
    """Copies saved values into live tensors.

    Raises:
        ValueError: names or shapes differ; ends with the advice.
    """
    wrong = sorted(live.keys() ^ saved.keys()) or [n for n in live if live[n].shape != saved[n].shape]
    if wrong:
        raise ValueError(f"expected saved weights of this network, got some that differ in {wrong[:3]}: {advice}")
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])


def _host_copy(value: Tensor, spare: Tensor | None) -> Tensor:
    """Copies a tensor to the CPU, in the order of its axes; from a GPU the copy may still be under way."""
    value = value.detach()
    if spare is None or (spare.shape, spare.dtype) != (value.shape, value.dtype):
        spare = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
    return spare.copy_(value, non_blocking=value.is_cuda)


def _restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Tensor], groups: Sequence[dict[str, Any]]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        index, slot = name.split(".", 1)
        parameter = parameters[int(index)]
        same_shape = value.shape == parameter.shape  # a moment; a step count is a scalar and has no layout to keep
        slots.setdefault(int(index), {})[slot] = _like(parameter, value) if same_shape else value.clone()
    # The saved groups hold what the schedule-free optimiser counts as it goes (its weight sum, its warm-up); only the
    # parameters' numbers are those of the live groups.
    live = optimizer.state_dict()["param_groups"]
    merged = [dict(group) | {"params": mine["params"]} for group, mine in zip(groups, live, strict=True)]
    optimizer.load_state_dict({"state": slots, "param_groups": merged})


def _like(model: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(model, dtype=value.dtype, requires_grad=False).copy_(value)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
