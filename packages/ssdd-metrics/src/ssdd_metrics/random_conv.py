"""Features of a fixed, random convolutional network, for a Frechet distance that needs no download.

The distance orders degrees of blur and of noise on ONE data set rightly. It is no FID, and none of its values may be
compared with a distance over Inception's features.

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

    Features are the mean and the standard deviation over space of each layer's activations:
    D = 2 * (16 + 24 + 32).
    """

    features = 2 * sum(WIDTHS)
    sha256 = "drawn from a fixed seed"  # for protocols, where other networks have their weights' hash

    def __init__(self) -> None:
        super().__init__()
        # By numpy, since torch does not guarantee equal draws on all platforms; a test pins the values.
        generator = np.random.Generator(np.random.PCG64(SEED))
        incoming = 3
        for layer, (width, kernel) in enumerate(zip(WIDTHS, KERNELS, strict=True)):
            weight = generator.standard_normal((width, incoming, kernel, kernel))
            weight *= np.sqrt(2 / (incoming * kernel * kernel))
            # Half of the first kernels ignore brightness: reconstructions differ in edges and texture.
            if layer == 0:
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
            # Pooled at every layer, so that an image of any size, even a line of pixels, has all features.
            pooled += [hidden.mean((2, 3)), hidden.std((2, 3), correction=0)]
        return torch.cat(pooled, dim=1)
