"""Moving average of the weights, with a warm-up.

The average is taken of the usable weights (`optim.usable_weights`): the live ones with AdamW, the optimiser's own
average with schedule-free RAdam, whose live weights are not meant for use.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ssdd.parameters import EmaConfig


class Ema:
    """Average of a list of tensors; until step `start_step + 1` it equals the list and costs nothing."""

    def __init__(self, config: EmaConfig):
        self.config = config
        self.average: list[Tensor] | None = None

    def decay(self, step: int) -> float:
        """Returns the share of the old average kept at a step (counted from 1): 0 means follow exactly."""
        n = step - self.config.start_step - 1
        return 0.0 if n <= 0 else min(self.config.decay, (1 + n) / (10 + n))

    def due(self, step: int) -> bool:
        """Says whether `update` does anything at this step: until then its weights need not be computed."""
        return step > self.config.start_step

    @torch.no_grad()
    def update(self, step: int, weights: Sequence[Tensor]) -> None:
        """Moves the average towards the weights as they are after `step` optimiser steps.

        Args:
            step: counted from 1.
            weights: where the optimiser is divided among ranks, those that this rank owns.
        """
        if not self.due(step):
            return
        if self.average is None:
            self.average = [weight.detach().clone() for weight in weights]
        elif self.average:  # a rank may own no weight
            # one call for all tensors: a loop over hundreds of small ones costs as much as a small step on a GPU
            torch._foreach_lerp_(self.average, list(weights), 1 - self.decay(step))
