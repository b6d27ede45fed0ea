"""The step functions, one for each loss: joint training, a decoder on a frozen encoder, distillation.

The interface that the loop needs of them is in `interface.py`, the terms of the loss in `loss_terms.py`.
"""

# B batch, C latent channels, H W pixels, h w latent cells

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import StageParameters, TargetParameters
from ssdd.training.adversary import Adversary
from ssdd.training.interface import StepLosses, TrainingStep
from ssdd.training.latent_noise import add_latent_noise
from ssdd.training.loss_networks import LossNetworks
from ssdd.training.loss_terms import Estimate, build_terms
from ssdd.upscaling import shrink
from ssdd_decoder import Decoder
from ssdd_decoder.distill import distillation_loss, teacher_target
from ssdd_decoder.flow import interpolate, predict_clean
from ssdd_decoder.losses import alignment_layer, flow_matching_loss
from ssdd_decoder.times import training_times


class DecoderStep(TrainingStep):
    """Base of all steps: the networks, the draws, and the weighted sum of the loss terms.

    Args:
        model: encoder and decoder; the decoder trains.
        stage: weights of the losses and the seed of all draws.
        networks: the pretrained networks of the loss, see `load_loss_networks`.
        train_encoder: whether the encoder trains along.
        deviation: (C,), of the latents, for `latent_noise`.

    Raises:
        ValueError: `loss.repa` needs transformer blocks and the decoder has none, or a pretrained network is missing.
    """

    exported = ("encoder", "decoder")
    pretrained_children = ("lpips", "vision")

    def __init__(
        self,
        model: SSDD,
        stage: StageParameters,
        networks: LossNetworks,
        train_encoder: bool = False,
        deviation: Tensor | None = None,
    ):
        super().__init__()
        self.stage, self.deviation = stage, deviation
        self.encoder = model.encoder.requires_grad_(train_encoder)
        self.decoder = model.decoder.requires_grad_(True)
        self.decoder.gradient_checkpointing = stage.gradient_checkpointing
        blocks = model.decoder.config.transformer_blocks
        self.token_layer = alignment_layer(blocks) if stage.loss.repa > 0 else None
        # The terms draw their heads before the discriminator draws its weights: both use the seed's one stream.
        self.terms = build_terms(stage.loss, model.decoder.config, networks)
        for term in self.terms:
            for name, module in term.modules.items():
                self.add_module(name, module)
        if stage.gan.enabled:
            object.__setattr__(self, "adversary", Adversary(stage.gan))

    @property
    def needs_real(self) -> bool:
        """Whether the loss uses the real images for more than encoding them."""
        return self.adversary is not None or any(term.needs_real for term in self.terms)

    def compile_networks(self) -> None:
        """Compiles encoder and decoder; the draws and losses around them stay as they are."""
        self.encoder.compile()
        self.decoder.predict = torch.compile(self.decoder.predict)  # type: ignore[method-assign]

    def noise(self, purpose: str, step: int, batch: dict[str, Any], shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Draws (B, *shape) from N(0, 1), a function of seed, purpose, step and each image's index."""
        seeds = sample_seeds(self.stage.seed, purpose, step, batch["index"].tolist())
        return sample_noise(seeds, shape, batch["image"].device)

    def image_noise(self, step: int, batch: dict[str, Any]) -> Tensor:
        """Draws eps (B, 3, H, W), in the memory layout of the networks."""
        eps = self.noise("noise", step, batch, batch["image"].shape[1:])
        return eps.contiguous(memory_format=torch.channels_last)

    def noisy(self, z: Tensor, step: int, batch: dict[str, Any]) -> Tensor:
        """Adds the stage's noise to latents (B, C, h, w) of a frozen encoder; without any, returns them as they are."""
        if self.deviation is None:
            return z
        return add_latent_noise(z, self.deviation, self.stage, step, batch["index"].tolist())

    def finish(self, estimate: Estimate) -> StepLosses:
        """Adds up the loss terms of an estimate, the adversarial one last."""
        losses = StepLosses(torch.zeros_like(estimate.flow))
        for term in self.terms:
            value = losses.terms[term.name] = term.loss(estimate)
            losses.total = losses.total + term.weight * value
        if isinstance(self.adversary, Adversary):
            losses.terms["gan"] = torch.zeros_like(estimate.flow)  # in every step, see `StepLosses.terms`
            if self.adversary.active(estimate.step):
                self._add_adversarial(losses, estimate, self.adversary)
        return losses

    def _add_adversarial(self, losses: StepLosses, estimate: Estimate, adversary: Adversary) -> None:
        assert estimate.real is not None
        image, x_t, t = estimate.image.float(), estimate.x_t, estimate.t
        losses.terms["gan"] = adversary.generator_loss(image, x_t, t)
        losses.total = losses.total + self.stage.gan.generator_weight * losses.terms["gan"]
        losses.for_adversary = {"real": estimate.real, "fake": image.detach(), "x_t": x_t, "t": t}


class AutoencoderStep(DecoderStep):
    """Flow matching at random times, with the encoder training along or frozen (stages 1 and 2).

    See `DecoderStep` for the arguments.
    """

    def __init__(
        self,
        model: SSDD,
        stage: StageParameters,
        networks: LossNetworks,
        train_encoder: bool = False,
        deviation: Tensor | None = None,
    ):
        if train_encoder and stage.latent_noise:
            raise ValueError(f"expected latent_noise 0 while the encoder trains, got {stage.latent_noise}")
        super().__init__(model, stage, networks, train_encoder, deviation)
        self.trains_encoder = train_encoder

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Losses of `image` (B, 3, H, W) and `index` (B,)."""
        x = batch["image"]
        # A frozen encoder gets no gradient, so its activations need not be kept in memory.
        with nullcontext() if self.trains_encoder else torch.no_grad():
            posterior = self.encoder(shrink(x, self.decoder.config.upscale), check_finite=False)
            if self.trains_encoder or self.stage.latent == "sample":
                z = posterior.sample(noise=self.noise("posterior", step, batch, posterior.mean.shape[1:]))
            else:
                z = posterior.mode()
            z = self.noisy(z, step, batch)
        eps = self.image_noise(step, batch)
        t = training_times(self.noise("time", step, batch, ()), self.stage.times.mean, self.stage.times.std)  # (B,)
        x_t = interpolate(x, eps, t)
        prediction = self.decoder.predict(x_t, t, self.decoder.condition(z), self.token_layer)
        velocity = prediction.velocity.float()
        estimate = Estimate(
            flow=flow_matching_loss(velocity, x, eps),
            target=x,
            image=predict_clean(x_t, velocity, t),
            tokens=prediction.tokens,
            real=x,
            x_t=x_t,
            t=t,
            step=step,
        )
        losses = self.finish(estimate)
        if self.trains_encoder:
            losses.terms["kl"] = posterior.kl().mean()
            losses.total = losses.total + self.stage.loss.kl * losses.terms["kl"]
        return losses


class DistillationStep(DecoderStep):
    """One student step at t = 1 against the end of the teacher's steps, from the same z and eps.

    Args:
        model: frozen encoder and student, which starts from the teacher's weights.
        stage: as for `DecoderStep`.
        networks: as for `DecoderStep`.
        teacher: frozen decoder; None where batches bring `z`, `noise` and `target` from the cache.
        targets: number of teacher steps.
        deviation: as for `DecoderStep`. The noise is on the student's latent alone: its target is the image of the
            clean one.
    """

    def __init__(
        self,
        model: SSDD,
        stage: StageParameters,
        networks: LossNetworks,
        teacher: Decoder | None,
        targets: TargetParameters,
        deviation: Tensor | None = None,
    ):
        super().__init__(model, stage, networks, deviation=deviation)
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.targets = targets
        if self.teacher is not None and stage.precision == "bf16":
            self.teacher.to(torch.bfloat16)  # decode computes in the weights' dtype, not under autocast

    def compile_networks(self) -> None:
        """Compiles the teacher too."""
        super().compile_networks()
        if self.teacher is not None:
            self.teacher.predict = torch.compile(self.teacher.predict)  # type: ignore[method-assign]

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Losses of `index` (B,) and `image` (B, 3, H, W), or of `z`, `noise`, `target` and, if needed, `image`."""
        if self.teacher is None:
            z, eps, target = batch["z"], batch["noise"], batch["target"]
        else:
            with torch.no_grad():
                small = shrink(batch["image"], self.decoder.config.upscale)
                z = self.encoder(small, check_finite=False).mode().float()
            eps = self.image_noise(step, batch)
            target = teacher_target(self.teacher, z, eps, self.targets.teacher_steps)
        student = distillation_loss(self.decoder, self.noisy(z, step, batch), eps, target, self.token_layer)
        estimate = Estimate(
            flow=student.loss,
            target=target,
            image=student.image,
            tokens=student.tokens,
            real=batch.get("image"),
            x_t=eps,
            t=torch.ones(len(eps), device=eps.device),
            step=step,
        )
        return self.finish(estimate)
