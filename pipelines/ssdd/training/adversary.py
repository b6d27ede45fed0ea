"""The optional second player: a patch discriminator with its own optimiser."""

import torch
from torch import Tensor

from ssdd.parameters import GanConfig
from ssdd.training.interface import AdversaryStep
from ssdd_decoder.adversarial import PatchDiscriminator, discriminator_loss, generator_loss


class Adversary(AdversaryStep):
    """Discriminator of real images and one-shot reconstructions at noisy images x_t and times t.

    Args:
        config: weights and starting step.
        discriminator: logits (B,) of images (B, 3, H, W), given x_t and t.
    """

    def __init__(self, config: GanConfig, discriminator: PatchDiscriminator | None = None):
        super().__init__()
        self.config = config
        self.discriminator = discriminator or PatchDiscriminator()

    def active(self, step: int) -> bool:
        """Says whether the game has begun."""
        return step >= self.config.start_step

    def network(self, estimate: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Generator side: the loss of a reconstruction, whose gradient reaches the reconstruction alone."""
        self.discriminator.eval().requires_grad_(False)  # eval: its spectral norms move in its own turn only
        try:
            return generator_loss(self.discriminator(estimate, x_t, t))
        finally:
            self.discriminator.train().requires_grad_(True)

    def forward(self, seen: dict[str, Tensor]) -> Tensor:
        """Discriminator side.

        Args:
            seen: `real`, `fake`, `x_t` (B, 3, H, W) and `t` (B,), all detached.
        """
        batch = len(seen["t"])
        images = torch.cat([seen["real"], seen["fake"]])
        x_t, t = torch.cat([seen["x_t"]] * 2), torch.cat([seen["t"]] * 2)
        real, fake = self.discriminator(images, x_t, t).split(batch)
        return self.config.discriminator_weight * discriminator_loss(real, fake)
