"""The loss of a generator: flow matching on normalised latents."""

# B batch, C latent channels, h w latent cells

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd.generation.generator import Generator
from ssdd.generation_parameters import GeneratorParameters, GeneratorTimes
from ssdd.noise import sample_noise, sample_seeds
from ssdd.training.interface import StepLosses, TrainingStep
from ssdd_decoder.flow import interpolate, target_velocity
from ssdd_decoder.times import training_times


class GeneratorStep(TrainingStep):
    """The squared error of the velocity, at one time for each latent.

    Args:
        generator: it trains.
        stage: times, dropping of labels, and the seed of all draws.
    """

    exported = ("generator",)

    def __init__(self, generator: Generator, stage: GeneratorParameters) -> None:
        super().__init__()
        self.stage = stage
        self.generator = generator.requires_grad_(True)
        generator.transformer.gradient_checkpointing = False
        if stage.gradient_checkpointing:
            generator.transformer.enable_gradient_checkpointing()

    def compile_networks(self) -> None:
        """Compiles the transformer."""
        self.generator.transformer.compile()

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Computes the loss of latents `z` (B, C, h, w), normalised, with their `label` (B,), -1 for none."""
        z, labels = batch["z"].float(), batch["label"]
        t = draw_times(self.stage.times, self._draws("time", step, batch, ()))
        eps = self._draws("noise", step, batch, z.shape[1:])
        # As probabilities: the draws are normal, and their distribution function makes them uniform.
        dropped = torch.special.ndtr(self._draws("label", step, batch, ())) < self.stage.label_dropout
        known = self.generator.known_labels(torch.where(dropped, -1, labels))
        loss = flow_loss(self.generator, z, eps, t, known).mean()
        return StepLosses(loss, {"flow": loss})

    def _draws(self, purpose: str, step: int, batch: dict[str, Any], shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Draws (B, *shape) from N(0, 1), a function of seed, purpose, step and each latent's index."""
        seeds = sample_seeds(self.stage.seed, f"generator {purpose}", step, batch["index"].tolist())
        return sample_noise(seeds, shape, batch["z"].device)


def flow_loss(generator: Generator, z: Tensor, eps: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """Returns the mean squared error of the velocity of each latent: (B,)."""
    v = generator.velocity(interpolate(z, eps, t), t, labels).float()
    return F.mse_loss(v, target_velocity(z, eps), reduction="none").mean((1, 2, 3))


def draw_times(times: GeneratorTimes, noise: Tensor) -> Tensor:
    """Makes training times of standard normal draws: (B,) -> (B,) in (0, 1)."""
    if times.distribution == "uniform":
        return torch.special.ndtr(noise)
    return training_times(noise, times.mean, times.std)
