"""The step functions: joint training, a decoder on a frozen encoder, distillation from a teacher or its cache."""

# B batch, C latent channels, H W pixels, h w latent cells, D token width

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import DistillConfig, TrainConfig
from ssdd.training.adversary import Adversary
from ssdd.training.interface import StepLosses, TrainingStep
from ssdd.training.loss_networks import LossNetworks, alignment_target, perceptual_distance
from ssdd_decoder import Decoder
from ssdd_decoder.distill import distillation_loss, teacher_target
from ssdd_decoder.flow import interpolate, predict_clean
from ssdd_decoder.losses import AlignmentHead, alignment_layer, alignment_loss, flow_matching_loss


class DecoderStep(TrainingStep):
    """What all steps share: the networks, and the terms that look at the estimate of the clean image.

    Args:
        model: encoder and decoder; the decoder trains.
        config: weights of the losses and the seed of all draws.
        pretrained_networks: see `pretrained_networks.load_loss_networks`.
        train_encoder: whether the encoder trains along.

    Raises:
        ValueError: alignment is asked of a decoder without transformer blocks, or a pretrained network is missing.
    """

    exported = ("encoder", "decoder")
    pretrained_networks = ("lpips", "vision")

    def __init__(
        self, model: SSDD, config: TrainConfig, pretrained_networks: LossNetworks, train_encoder: bool = False
    ):
        super().__init__()
        self.config = config
        self.encoder = model.encoder.requires_grad_(train_encoder)
        self.decoder = model.decoder.requires_grad_(True)
        self.decoder.gradient_checkpointing = config.gradient_checkpointing
        self.token_layer: int | None = None
        if config.loss.repa > 0:
            blocks, width = model.decoder.config.transformer_blocks, model.decoder.config.widths[-1]
            if blocks == 0 or pretrained_networks.vision is None:
                raise ValueError(
                    "expected a decoder with transformer blocks and a vision network for loss.repa, got "
                    f"{blocks} blocks and {pretrained_networks.vision}: set loss.repa to 0"
                )
            self.token_layer = alignment_layer(blocks)
            self.alignment_head = AlignmentHead(width, int(pretrained_networks.vision.features))  # type: ignore[arg-type]
            self.vision = pretrained_networks.vision
        self.lpips = pretrained_networks.lpips
        self._distance = perceptual_distance(config.loss, pretrained_networks.lpips)
        if config.gan.enabled:
            object.__setattr__(self, "adversary", Adversary(config.gan))

    def compile_networks(self) -> None:
        """Compiles encoder and decoder; the draws and losses around them stay as they are."""
        self.encoder.compile()
        self.decoder.predict = torch.compile(self.decoder.predict)  # type: ignore[method-assign]

    def noise(self, purpose: str, step: int, batch: dict[str, Any], shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Draws (B, *shape) from N(0, 1), a function of seed, purpose, step and each image's index."""
        seeds = sample_seeds(self.config.seed, purpose, step, batch["index"].tolist())
        return sample_noise(seeds, shape, batch["image"].device)

    def finish(
        self,
        flow: Tensor,
        target: Tensor,
        estimate: Tensor,
        tokens: Tensor | None,
        real: Tensor,
        x_t: Tensor,
        t: Tensor,
        step: int,
    ) -> StepLosses:
        """Adds the perceptual, alignment and adversarial terms to the flow-matching loss.

        Args:
            flow: scalar.
            target: (B, 3, H, W), what the estimate should look like.
            estimate: (B, 3, H, W), x0_pred.
            tokens: (B, N_y, N_x, D), of the decoder.
            real: (B, 3, H, W), the real images.
            x_t, t: where the decoder was asked; (B, 3, H, W) and (B,).
            step: finished optimiser steps.
        """
        weights = self.config.loss
        terms, total = {"flow_matching": flow}, weights.flow_matching * flow
        if self._distance is not None:
            terms[weights.perceptual] = self._distance(target, estimate)
            total = total + weights.perceptual_weight * terms[weights.perceptual]
        if tokens is not None:
            wanted = alignment_target(self.vision, real, (tokens.shape[1], tokens.shape[2]))
            terms["repa"] = alignment_loss(self.alignment_head(tokens), wanted)
            total = total + weights.repa * terms["repa"]
        seen = None
        if isinstance(self.adversary, Adversary):
            terms["gan"] = torch.zeros_like(flow)
            if self.adversary.active(step):
                terms["gan"] = self.adversary.network(estimate.float(), x_t, t)
                total = total + self.config.gan.generator_weight * terms["gan"]
                seen = {"real": real, "fake": estimate.detach().float(), "x_t": x_t, "t": t}
        return StepLosses(total, terms, seen)


class AutoencoderStep(DecoderStep):
    """Flow matching at random times, with the encoder training along or frozen (stages 1 and 2).

    See `DecoderStep` for the arguments.
    """

    def __init__(
        self, model: SSDD, config: TrainConfig, pretrained_networks: LossNetworks, train_encoder: bool = False
    ):
        super().__init__(model, config, pretrained_networks, train_encoder)
        self.trains_encoder = train_encoder

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Losses of `image` (B, 3, H, W) and `index` (B,)."""
        x = batch["image"]
        with nullcontext() if self.trains_encoder else torch.no_grad():
            posterior = self.encoder(x)
            z = posterior.mode()
            if self.trains_encoder or self.config.latent == "sample":
                n = self.noise("posterior", step, batch, z.shape[1:])
                z = posterior.mean.float() + torch.exp(0.5 * posterior.logvar.float()) * n
        eps = self.noise("noise", step, batch, x.shape[1:]).contiguous(memory_format=torch.channels_last)
        t = torch.sigmoid(self.noise("time", step, batch, ()))  # (B,)
        x_t = interpolate(x, eps, t)
        prediction = self.decoder.predict(x_t, t, self.decoder.condition(z), self.token_layer)
        velocity = prediction.velocity.float()
        losses = self.finish(
            flow_matching_loss(velocity, x, eps),
            target=x,
            estimate=predict_clean(x_t, velocity, t),
            tokens=prediction.tokens,
            real=x,
            x_t=x_t,
            t=t,
            step=step,
        )
        if self.trains_encoder:
            losses.terms["kl"] = posterior.kl().mean()
            losses.total = losses.total + self.config.loss.kl * losses.terms["kl"]
        return losses


class DistillationStep(DecoderStep):
    """One student step at t = 1 against where the teacher's steps end, from the same z and eps.

    Args:
        model: frozen encoder and student, which starts from the teacher's weights.
        config: as for `DecoderStep`.
        pretrained_networks: as for `DecoderStep`.
        teacher: frozen decoder; None where batches bring `z`, `noise` and `target` from the cache.
        distill: number of teacher steps.
    """

    def __init__(
        self,
        model: SSDD,
        config: TrainConfig,
        pretrained_networks: LossNetworks,
        teacher: Decoder | None,
        distill: DistillConfig,
    ):
        super().__init__(model, config, pretrained_networks)
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.distill = distill
        if self.teacher is not None and config.precision == "bf16":
            self.teacher.to(torch.bfloat16)  # decode computes in the weights' dtype, not under autocast

    def compile_networks(self) -> None:
        """Compiles the teacher too."""
        super().compile_networks()
        if self.teacher is not None:
            self.teacher.predict = torch.compile(self.teacher.predict)  # type: ignore[method-assign]

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Losses of `image` (B, 3, H, W) and `index` (B,)."""
        x = batch["image"]
        if self.teacher is None:
            z, eps, target = batch["z"], batch["noise"], batch["target"]
        else:
            with torch.no_grad():
                z = self.encoder(x).mode().float()
            eps = self.noise("noise", step, batch, x.shape[1:]).contiguous(memory_format=torch.channels_last)
            target = teacher_target(self.teacher, z, eps, self.distill.teacher_steps)
        student = distillation_loss(self.decoder, z, eps, target, self.token_layer)
        t = torch.ones(len(x), device=x.device)
        return self.finish(
            student.loss,
            target=target,
            estimate=student.image,
            tokens=student.tokens,
            real=x,
            x_t=eps,
            t=t,
            step=step,
        )
