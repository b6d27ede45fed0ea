"""The resume state: all that a run needs to go on exactly where it stopped, in one object.

There is no random state: every draw is keyed (`ssdd.noise`). Its files are in `ssdd.training.state_store`.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ssdd.training.ema import Ema
from ssdd.training.sharding import owned, share


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
    """Weights, moving average, optimisers, loss scaler and progress of one run.

    Where the optimisers are divided among the ranks, each rank's state has the moments and averages of the weights that
    it owns. Their names are those of an undivided state, so the states of all ranks together make one.
    """

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
        self.own = owned(optimizers["main"], averaged)
        self._own = set(self.own)
        self._owned = {name: set(owned(one, _parameters(one))) for name, one in optimizers.items()}

    def own_averaged(self) -> list[nn.Parameter]:
        """Returns those parameters of which this rank has the moving average."""
        return [self.averaged[place] for place in self.own]

    def tensors(self, networks: bool = True) -> dict[str, Tensor]:
        """Returns the tensors of the state by name (live tensors, not copies).

        Args:
            networks: also the weights, which all ranks have.
        """
        found: dict[str, Tensor] = {}
        if networks:
            found = {f"network.{n}.{k}": v for n, m in self.networks.items() for k, v in trained_tensors(m).items()}
        for name, optimizer in self.optimizers.items():
            for index, slots in _slots(optimizer):
                found |= {f"optimizer.{name}.{index}.{slot}": value for slot, value in slots.items()}
        if self.ema.average is not None:
            found |= {f"ema.{place}": value for place, value in zip(self.own, self.ema.average, strict=True)}
        return found

    def wants(self, name: str) -> bool:
        """Whether a tensor of a saved state belongs to this rank."""
        kind, first, *rest = name.split(".")
        if kind == "optimizer":
            return int(rest[0]) in self._owned[first]
        return kind != "ema" or int(first) in self._own

    def document(self) -> dict[str, Any]:
        """Returns everything that is not a tensor, ready for JSON."""
        groups = {
            name: [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        scaler = self.scaler.state_dict() if self.scaler is not None else None
        return {"progress": dataclasses.asdict(self.progress), "optimizers": groups, "scaler": scaler}

    def snapshot(self, earlier: "Snapshot | None" = None, networks: bool = True) -> "Snapshot":
        """Copies the state to the CPU; later steps do not change the copy.

        Args:
            earlier: a copy that is not needed any more, and gives its memory: on a CPU, new memory takes longer than
                the copy itself.
            networks: also the weights, which all ranks have.
        """
        live, document = self.tensors(networks), self.document()
        spare = earlier.tensors if earlier is not None else {}
        copies = {name: _host_copy(value, spare.get(name)) for name, value in live.items()}
        if any(value.is_cuda for value in live.values()):
            torch.cuda.synchronize()
        return Snapshot(self.progress.step, copies, document)

    def restore(self, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
        """Copies a saved state into the live objects; of a divided optimiser, what this rank owns.

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
        if self.ema.due(document["progress"]["step"]):
            self.ema.average = [_like(self.averaged[place], tensors[f"ema.{place}"]) for place in self.own]
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


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    """Returns all parameters of an optimiser, also of a divided one, in the order in which states number them."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _slots(optimizer: Optimizer) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yields what an optimiser holds of each parameter that this rank owns, by the parameter's number."""
    held = share(optimizer).state
    yield from ((number, held[p]) for number, p in enumerate(_parameters(optimizer)) if p in held)


def _restore_optimizer(optimizer: Optimizer, saved: Mapping[str, Tensor], groups: Sequence[dict[str, Any]]) -> None:
    own, parameters = share(optimizer), _parameters(optimizer)
    places = {id(p): place for place, p in enumerate(_parameters(own))}  # in the share of this rank
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        index, slot = name.split(".", 1)
        parameter = parameters[int(index)]
        same_shape = value.shape == parameter.shape  # a moment; a step count is a scalar and has no layout to keep
        slots.setdefault(places[id(parameter)], {})[slot] = _like(parameter, value) if same_shape else value.clone()
    # The saved groups hold what the schedule-free optimiser counts as it goes (its weight sum, its warm-up); only the
    # parameters' numbers are those of the live groups.
    live = own.state_dict()["param_groups"]
    merged = [dict(group) | {"params": mine["params"]} for group, mine in zip(groups, live, strict=True)]
    own.load_state_dict({"state": slots, "param_groups": merged})
    for group, counted in zip(optimizer.param_groups, groups, strict=True):  # a divided optimiser has groups of its own
        group.update(counted)


def _like(model: Tensor, value: Tensor) -> Tensor:
    return torch.empty_like(model, dtype=value.dtype, requires_grad=False).copy_(value)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
