"""CUDA graphs: the kernels of a call, recorded once and started together later."""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the recording, in which kernels are compiled and libraries choose theirs


def record(call: Callable[..., Tensor], z: Tensor, noise: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Records a call with latents and noise of these shapes.

    Args:
        call: takes z and, by name, noise; computes on the GPU alone.
        z, noise: examples.

    Returns:
        a function that copies its arguments to where the recorded kernels read, starts them, and returns a copy of
        their result. It raises ValueError for other shapes.
    """
    z, noise = z.clone(), noise.clone()
    beside = torch.cuda.Stream(z.device)
    beside.wait_stream(torch.cuda.current_stream(z.device))
    with torch.cuda.stream(beside):  # as PyTorch asks: what is done first must not mix with the recorded stream
        for _ in range(WARM_UP):
            call(z, noise=noise)
    torch.cuda.current_stream(z.device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(z.device), torch.cuda.graph(graph):
        image = call(z, noise=noise)

    def replay(new_z: Tensor, new_noise: Tensor) -> Tensor:
        for name, new, place in (("z", new_z, z), ("noise", new_noise, noise)):
            if new.shape != place.shape:
                raise ValueError(
                    f"expected {name} of shape {tuple(place.shape)}, as recorded, got {tuple(new.shape)}: "
                    "record again for other sizes"
                )
            place.copy_(new)
        graph.replay()
        return image.clone()

    return replay
