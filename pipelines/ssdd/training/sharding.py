"""Optimisers whose states are divided among the ranks (ZeRO, stage 1): each weight has one rank that owns it.

Weights and gradients are whole everywhere. What else belongs to a weight (moments, schedule-free average, moving
average) is its owner's alone. The owner computes the weight's step as every rank would, and sends the result to the
others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def divided(kind: type[Optimizer], groups: list[dict[str, Any]], common: Mapping[str, Any]) -> Optimizer:
    """Makes an optimiser of which this rank has its share; without other ranks, a plain one.

    Args:
        kind: class of the optimiser.
        groups: of parameters, the same in all ranks.
        common: settings of all groups.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return kind(groups, **common)
    from torch.distributed.optim import ZeroRedundancyOptimizer  # takes a second, and few runs need it

    return ZeroRedundancyOptimizer(groups, optimizer_class=kind, **common)


def share(optimizer: Optimizer) -> Optimizer:
    """Returns the optimiser of the weights that this rank owns: the optimiser itself, unless it is divided."""
    own: Optimizer = getattr(optimizer, "optim", optimizer)
    return own


def owned(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[int]:
    """Returns the places in a list of parameters of those that this rank owns; of a plain optimiser, all."""
    own = {id(p) for group in share(optimizer).param_groups for p in group["params"]}
    return [place for place, parameter in enumerate(parameters) if id(parameter) in own]


def gathered(optimizer: Optimizer, parameters: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """Returns other values of all parameters, from those that each rank has of its own; all ranks call it together.

    Args:
        optimizer: of the parameters.
        parameters: the same in all ranks.
        weights: a value for each parameter that this rank owns.

    Returns:
        One tensor per parameter.
    """
    if share(optimizer) is optimizer:
        return list(weights)
    mine = owned(optimizer, parameters)
    places: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(places, mine)
    values = dict(zip(mine, weights, strict=True))
    whole: list[Tensor] = []
    owners = {place: rank for rank, found in enumerate(places) for place in found}
    for place, parameter in enumerate(parameters):
        # A copy in the parameter's layout: the ranks exchange memory, whatever its strides mean.
        value = torch.empty_like(parameter, requires_grad=False)
        if place in values:
            value.copy_(values[place])
        torch.distributed.broadcast(value, owners[place])
        whole.append(value)
    return whole
