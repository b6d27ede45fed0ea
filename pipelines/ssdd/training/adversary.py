"""The optional adversarial term: a patch discriminator with its own optimiser."""

import torch
from torch import Tensor

from ssdd.parameters import GanConfig
from ssdd.training.interface import AdversaryStep
from ssdd_decoder.adversarial import PatchDiscriminator, discriminator_loss, generator_loss


class Adversary(AdversaryStep):
    """Discriminator of real images and one-step reconstructions at noisy images x_t and times t.

    Args:
        gan: weights and starting step.
        discriminator: logits (B,) of images (B, 3, H, W), given x_t and t.
    """

    def __init__(self, gan: GanConfig, discriminator: PatchDiscriminator | None = None):
        super().__init__()
        self.gan = gan
        self.discriminator = discriminator or PatchDiscriminator(gan.channels)

    def active(self, step: int) -> bool:
        """Says whether the discriminator trains at this step."""
        return step >= self.gan.start_step

    def generator_loss(self, estimate: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The decoder's side: the loss of a reconstruction, whose gradient reaches the reconstruction alone."""
        # eval: a training forward would advance the power iteration of the spectral norms, and the discriminator's
        # weights would then depend on how often the decoder's side was computed.
        self.discriminator.eval().requires_grad_(False)
        try:
            return generator_loss(self.discriminator(estimate, x_t, t))
        finally:
            self.discriminator.train().requires_grad_(True)

    def forward(self, seen: dict[str, Tensor]) -> Tensor:
        """The discriminator's side.

        Args:
            seen: `real`, `fake`, `x_t` (B, 3, H, W) and `t` (B,), all detached.
        """
        batch = len(seen["t"])
        images = torch.cat([seen["real"], seen["fake"]])  # one forward: DDP allows only one for each backward
        x_t, t = torch.cat([seen["x_t"]] * 2), torch.cat([seen["t"]] * 2)
        real, fake = self.discriminator(images, x_t, t).split(batch)
        return self.gan.discriminator_weight * discriminator_loss(real, fake)
