"""What the loop asks of a training step: a module whose forward computes the losses of a batch."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class StepLosses:
    """Losses of one piece of a batch.

    Args:
        total: scalar to differentiate.
        terms: its parts before weighting, for the history; the same names in every step.
        for_adversary: what the discriminator learns from (detached), None while there is none.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    for_adversary: dict[str, Tensor] | None = None


class TrainingStep(nn.Module):
    """Base of the step modules: children with a trainable parameter train, all others stay as they are.

    Subclasses define `forward(batch, step) -> StepLosses`, where `step` counts finished optimiser steps, and
    name in `exported` the children that checkpoints hold and the moving average follows, in `pretrained_networks`
    those whose weights come from a file that is checked by its hash.
    """

    exported: tuple[str, ...] = ()
    pretrained_networks: tuple[str, ...] = ()
    adversary: "AdversaryStep | None" = None

    def train(self, mode: bool = True) -> "TrainingStep":
        """Switches to training, except the children that are frozen: those stay in evaluation mode."""
        super().train(mode)
        for child in self.children():
            if not any(parameter.requires_grad for parameter in child.parameters()):
                child.eval()
        return self

    def averaged(self) -> list[nn.Parameter]:
        """Returns the trained parameters of the exported children, in a fixed order."""
        children = [self.get_submodule(name) for name in self.exported]
        return [p for child in children for p in child.parameters() if p.requires_grad]

    def compile_networks(self) -> None:
        """Compiles the costly calls; nothing by default."""


class AdversaryStep(nn.Module):
    """The second player: `forward(for_adversary) -> scalar loss`, trained by its own optimiser after each step.

    A training step keeps it out of its children (`object.__setattr__`), so that each player has its own
    parameters, gradients and state.
    """

    def active(self, step: int) -> bool:
        """Says whether the game has begun at this step."""
        raise NotImplementedError

    def forward(self, seen: dict[str, Any]) -> Tensor:
        """Returns the loss of the discriminator."""
        raise NotImplementedError
