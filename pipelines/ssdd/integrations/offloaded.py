"""Networks whose weights accelerate keeps elsewhere and brings along for one call of a module."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def loaded(network: nn.Module) -> Iterator[None]:
    """Brings all weights of a network to its device, for as long as the block lasts.

    Sequential offloading loads the weights of a layer when the layer is called. Decoders read many weights without
    such a call: they fold kernels and project the latent for all blocks at once. A network is loaded as a whole,
    therefore, which costs its size in memory.
    """
    hooks: list[tuple[nn.Module, Any]] = [(module, getattr(module, "_hf_hook", None)) for module in network.modules()]
    hooks = [(module, hook) for module, hook in hooks if hook is not None]
    for module, hook in hooks:
        hook.pre_forward(module)
    try:
        yield
    finally:
        for module, hook in hooks:
            hook.post_forward(module, None)
