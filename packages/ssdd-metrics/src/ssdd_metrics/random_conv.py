"""Features of a fixed, random convolutional network: a Frechet distance that needs no download.

It ranks blur, noise and artefacts of the SAME data set in the right order, and is no FID: no number computed
here may be compared with one computed with Inception.

Legend: B batch, H W pixels, D features.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_metrics.images import to_unit

SEED = 20151205
WIDTHS = (16, 24, 32)
KERNELS = (5, 3, 3)


class RandomConvFeatures(nn.Module):
    """Three strided convolutions with weights drawn by numpy's PCG64, the same on every machine.

    Features are the mean and the standard deviation over space of each layer's activations: D = 2 * (16 + 24
    + 32).
    """

    features = 2 * sum(WIDTHS)

    def __init__(self) -> None:
        super().__init__()
        generator = np.random.Generator(np.random.PCG64(SEED))
        incoming = 3
        for layer, (width, kernel) in enumerate(zip(WIDTHS, KERNELS, strict=True)):
            weight = generator.standard_normal((width, incoming, kernel, kernel))
            weight *= np.sqrt(2 / (incoming * kernel * kernel))
            if layer == 0:  # blind to brightness: edges and texture are what reconstructions differ in
                weight[: width // 2] -= weight[: width // 2].mean((1, 2, 3), keepdims=True)
            self.register_buffer(f"weight{layer}", torch.from_numpy(weight.astype(np.float32)))
            incoming = width

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Returns (B, D) float32 features of (B, 3, H, W) images, uint8 or in [0, 1], of any size."""
        hidden = to_unit(images).float() - 0.5
        pooled = []
        for layer, kernel in enumerate(KERNELS):
            weight = self.get_buffer(f"weight{layer}")
            hidden = F.relu(F.conv2d(hidden, weight, stride=2, padding=kernel // 2))
            pooled += [hidden.mean((2, 3)), hidden.std((2, 3), correction=0)]
        return torch.cat(pooled, dim=1)
