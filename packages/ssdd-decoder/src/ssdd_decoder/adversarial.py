"""The optional adversarial term: a patch discriminator that also sees the noisy image and the time."""

# B batch, H W pixels, C channels

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ssdd_decoder.conditioning import TIME_SCALE, sinusoid

TIME_CHANNELS = 128
NORM_GROUPS = 32


class DiscriminatorLayer(nn.Module):
    """4x4 stride-2 convolution with spectral norm, group norm scaled and shifted by time, leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1))
        self.norm = nn.GroupNorm(NORM_GROUPS, out_channels)
        self.time_proj = nn.Linear(TIME_CHANNELS, 2 * out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2)."""
        scale, shift = self.time_proj(time)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(self.conv(x)), 1 + scale)
        return F.leaky_relu(h, 0.2)


class PatchDiscriminator(nn.Module):
    """Rates how real an image looks, from the image, the noisy image that it was made from, and the time.

    Args:
        channels: filters of the first layer; each further layer doubles them, up to 512.
        layers: stride-2 layers; images need 2^layers pixels per side.
    """

    def __init__(self, channels: int = 64, layers: int = 4) -> None:
        super().__init__()
        widths = [6] + [min(channels * 2**i, 512) for i in range(layers)]
        self.layers = nn.ModuleList(DiscriminatorLayer(a, b) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, image: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Rates how real images look.

        Args:
            image: (B, 3, H, W), about [-1, 1].
            x_t: (B, 3, H, W), the noisy images that they were made from.
            t: (B,) or (1,), in [0, 1].

        Returns:
            logits (B,).

        Raises:
            ValueError: the shapes differ, or a side has less than 2^layers pixels.
        """
        if image.shape != x_t.shape or image.ndim != 4 or min(image.shape[2:]) < 2 ** len(self.layers):
            raise ValueError(
                f"expected images and noisy images of one shape (B, 3, H, W) with sides from {2 ** len(self.layers)} "
                f"pixels up, got {tuple(image.shape)} and {tuple(x_t.shape)}: use larger crops or fewer layers"
            )
        # Clamped: pixels beyond the range of real images would give reconstructions away.
        h = torch.cat([image.clamp(-1, 1), x_t], dim=1)
        time = sinusoid(TIME_SCALE * t.to(torch.promote_types(t.dtype, torch.float32)), TIME_CHANNELS).to(h.dtype)
        for layer in self.layers:
            h = layer(h, time)
        return self.head(h.mean(dim=(2, 3))).squeeze(1)


def generator_loss(fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy of reconstructions against the label "real"."""
    return F.binary_cross_entropy_with_logits(fake_logits.float(), torch.ones_like(fake_logits, dtype=torch.float32))


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Mean of the binary cross-entropies of real images and reconstructions, each against its true label."""
    fake = F.binary_cross_entropy_with_logits(fake_logits.float(), torch.zeros_like(fake_logits, dtype=torch.float32))
    return 0.5 * (generator_loss(real_logits) + fake)
