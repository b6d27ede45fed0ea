"""The optimiser, its parameter groups, and the weights at which a network is evaluated and saved."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from schedulefree import RAdamScheduleFree
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ssdd.parameters import OptimConfig
from ssdd.training.sharding import divided, share

DECAYED = (nn.Linear, nn.modules.conv._ConvNd, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(modules: Sequence[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Splits trainable parameters as published: weights of linears, convs and norms decay, all else does not.

    All else: biases, embeddings (the relative bias tables among them), and parameters of any other kind.

    Args:
        modules: the modules to train; frozen parameters are left out, shared ones counted once.
        weight_decay: of the first group.

    Raises:
        ValueError: nothing to train.
    """
    decayed: dict[int, Tensor] = {}
    plain: dict[int, Tensor] = {}
    for root in modules:
        for module in root.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    decays = name == "weight" and isinstance(module, DECAYED)
                    (decayed if decays else plain)[id(parameter)] = parameter
    if not decayed and not plain:
        raise ValueError("expected at least one trainable parameter, got none: every network is frozen")
    groups = [
        {"params": list(decayed.values()), "weight_decay": weight_decay},
        {"params": list(plain.values()), "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(modules: Sequence[nn.Module], config: OptimConfig, sharded: bool = False) -> Optimizer:
    """Builds the optimiser of the trainable parameters of the modules, ready to train.

    Args:
        modules: the modules to train.
        config: of the optimiser.
        sharded: divide its states among the ranks.
    """
    groups = parameter_groups(modules, config.weight_decay)
    common: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    kind: type[Optimizer] = AdamW
    if config.optimizer == "radam_schedulefree":
        kind, common = RAdamScheduleFree, common | {"r": config.r}
    optimizer = divided(kind, groups, common) if sharded else kind(groups, **common)
    if config.optimizer == "radam_schedulefree":
        # What its `train()` does before the first step. A divided optimiser takes settings from its own groups alone.
        for group in optimizer.param_groups:
            group["train_mode"] = True
    return optimizer


def learning_rate(optimizer: Optimizer) -> float:
    """Returns the rate of the last step (schedule-free RAdam warms up by itself)."""
    group = optimizer.param_groups[0]
    return float(group.get("scheduled_lr", group["lr"]))


@torch.no_grad()
def usable_weights(optimizer: Optimizer, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Returns the weights at which the network is to be evaluated and saved, without touching the live ones.

    The schedule-free optimiser trains at y = (1 - beta) z + beta x and its results hold at x. Its own `eval()` and
    `train()` move the weights from y to x and back with a rounding error each way, so that a run that was evaluated or
    saved would differ from one that was not. Here x is computed separately.

    Args:
        optimizer: the optimiser, in training mode.
        parameters: parameters that it trains; of a divided optimiser, those that this rank owns.

    Returns:
        One tensor per parameter; with AdamW the live tensor itself.
    """
    own = share(optimizer)
    if not isinstance(own, RAdamScheduleFree) or not parameters:
        return list(parameters)
    beta = optimizer.param_groups[0]["betas"][0]  # all groups have the same
    # Of a parameter that was not trained yet there is no z. Between y and itself lies y, bit for bit.
    z = [own.state[y].get("z", y) if y in own.state else y for y in parameters]
    return list(torch._foreach_lerp(list(parameters), z, 1 - 1 / beta))  # one call for all, as in `Ema.update`


@contextmanager
def swapped(parameters: Sequence[Tensor], weights: Sequence[Tensor]) -> Iterator[None]:
    """Gives the parameters other values for a while; afterwards they have their own again, bit for bit.

    The values are copied in and out: DDP, the optimiser and compiled code hold on to the parameters' memory.
    """
    with torch.no_grad():
        own = [parameter.detach().clone() for parameter in parameters]
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, own, strict=True):
                parameter.copy_(value)
