"""Gradients with the strides of their weights, as the buckets have them in which processes exchange gradients."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def keep_strides(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Lets the gradients of these weights have the weights' own strides from now on; nothing is computed or copied.

    In a 1x1 kernel the strides of the two axes of size 1 mean nothing. Those of a channels-last kernel differ from
    those of its gradient wherever the kernel was applied as a matrix. DDP compares all strides: it would warn, and copy
    such a gradient in every step.

    Args:
        parameters: that train.
    """
    for parameter in parameters:
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(_with_strides_of(parameter.stride()))


def _with_strides_of(strides: tuple[int, ...]) -> Callable[[Tensor], Tensor | None]:
    def change(gradient: Tensor) -> Tensor | None:
        own = gradient.stride()
        if own == strides:
            return None
        same_memory = all(size == 1 or a == b for size, a, b in zip(gradient.shape, own, strides, strict=True))
        return gradient.as_strided(gradient.shape, strides) if same_memory else None

    return change
