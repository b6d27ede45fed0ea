"""The interface between the loop and a training step: a module whose forward computes the losses of a batch."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class StepLosses:
    """Losses of one piece of a batch.

    Args:
        total: scalar to differentiate.
        terms: its parts before weighting, for the history; the same names in every step, because the processes
            exchange them as one tensor and the history has one column for each.
        for_adversary: input of the discriminator's loss (detached); None while there is none.
    """

    total: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    for_adversary: dict[str, Tensor] | None = None


class TrainingStep(nn.Module):
    """Base of the step modules: children with a trainable parameter train, all others stay as they are.

    Subclasses define `forward(batch, step) -> StepLosses`, where `step` counts finished optimiser steps. They list the
    children that checkpoints hold and the moving average follows in `exported`, and the children whose weights come
    from a file that is checked by its hash in `pretrained_children`.
    """

    exported: tuple[str, ...] = ()
    pretrained_children: tuple[str, ...] = ()
    adversary: "AdversaryStep | None" = None

    def train(self, mode: bool = True) -> "TrainingStep":
        """Switches to training, except for frozen children: their statistics and dropout must not move."""
        super().train(mode)
        for child in self.children():
            if not any(parameter.requires_grad for parameter in child.parameters()):
                child.eval()
        return self

    def averaged(self) -> list[nn.Parameter]:
        """Returns the trained parameters of the exported children, in a fixed order: resume states number them."""
        children = [self.get_submodule(name) for name in self.exported]
        return [p for child in children for p in child.parameters() if p.requires_grad]

    def compile_networks(self) -> None:
        """Compiles the costly calls; nothing by default."""


class AdversaryStep(nn.Module):
    """The discriminator: `forward(for_adversary) -> scalar loss`, trained by its own optimiser after each step.

    A training step keeps it out of its children (`object.__setattr__`), so that the two have separate parameters,
    gradients and states. As a child, its parameters would also be trained on the decoder's adversarial loss.
    """

    def active(self, step: int) -> bool:
        """Says whether the discriminator trains at this step."""
        raise NotImplementedError

    def forward(self, seen: dict[str, Any]) -> Tensor:
        """Returns the loss of the discriminator."""
        raise NotImplementedError
