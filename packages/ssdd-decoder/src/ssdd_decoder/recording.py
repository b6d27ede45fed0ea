"""CUDA graphs: the kernels of a call, recorded once and started together later."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the recording, in which kernels are compiled and libraries choose theirs


def record(call: Callable[..., Tensor], *examples: Tensor) -> Callable[..., Tensor]:
    """Records a call with arguments of these shapes.

    Args:
        call: computes on the GPU alone.
        examples: its arguments, on one GPU.

    Returns:
        a function that copies its arguments to where the recorded kernels read, starts them, and returns a copy of
        their result. It raises ValueError for other shapes.
    """
    places, device = [example.clone() for example in examples], examples[0].device
    beside = torch.cuda.Stream(device)
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):  # as PyTorch asks: what is done first must not mix with the recorded stream
        for _ in range(WARM_UP):
            call(*places)
    torch.cuda.current_stream(device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        image = call(*places)

    def replay(*arguments: Tensor) -> Tensor:
        for new, place in zip(arguments, places, strict=True):
            if new.shape != place.shape:
                raise ValueError(
                    f"expected a tensor of shape {tuple(place.shape)}, as recorded, got {tuple(new.shape)}: "
                    "record again for other sizes"
                )
            place.copy_(new)
        graph.replay()
        return image.clone()

    return replay
