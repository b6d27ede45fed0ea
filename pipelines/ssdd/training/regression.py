"""Regression on a frozen encoder: the training step of decoders that see no noise, and the job that trains them.

The KL-VAE's recipe: L1, a perceptual term and, in one of its rows, a discriminator that joins late. Its weight follows
from the gradients at the last layer (Esser et al., "Taming transformers", 2021).
"""

# B batch, C latent channels, H W pixels, h w latent cells

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdd.baselines import FeedForward, KLAutoencoder, KLDecoder, KLDecoderConfig, matching_config
from ssdd.comparison_parameters import KLParameters, RegressionParameters, RegressionWeights
from ssdd.data.image_dataset import ImageDataset
from ssdd.encoders import load_encoder
from ssdd.evaluation.periodic import Evaluator
from ssdd.evaluation.pretrained_networks import find_networks, load_networks
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import PretrainedNetworks, RuntimeConfig
from ssdd.processes import launch
from ssdd.training.adversary import Adversary
from ssdd.training.interface import StepLosses, TrainingStep
from ssdd.training.latent_noise import add_latent_noise, channel_deviation
from ssdd.training.ledger import TrainResult
from ssdd.training.loop import train, trial_step
from ssdd.training.loss_networks import LossNetworks, load_loss_networks, perceptual_distance
from ssdd.training.threads import choose_threads, is_measured, kept_threads
from ssdd.upscaling import shrink
from ssdd_decoder import DecoderConfig
from ssdd_decoder.losses import patch_border_loss
from ssdd_metrics import networks_of

Kind = Literal["kl", "feed_forward"]
TITLES = {"kl": "training the KL decoder", "feed_forward": "training the feed-forward decoder"}
LARGEST_WEIGHT = 1e4  # of the adversarial term, as published
GRADIENT_EPS = 1e-4  # beside the norm in the denominator, as published


@dataclass(frozen=True, kw_only=True)
class RegressionJob:
    """The training of one decoder that sees no noise; see `TrainingJob` for what is not described here.

    Args:
        kind: `kl`, the KL-VAE's decoder, or `feed_forward`, SSDD's network called once.
        encoder: its checkpoint; it stays frozen.
        network: shape of the decoder.
        stage: with a number of epochs.
        adaptive: whether the adversary's weight follows from the gradients at the last layer.
        start: a checkpoint of `KLAutoencoder`, whose decoder trains on; None to begin with random weights.
    """

    kind: Kind
    encoder: Path
    network: KLDecoderConfig | DecoderConfig
    images: ImageDataset
    validation: ImageDataset
    stage: RegressionParameters
    pretrained_networks: PretrainedNetworks
    runtime: RuntimeConfig
    folder: Path
    fingerprint: str
    adaptive: bool = True
    start: Path | None = None

    @property
    def title(self) -> str:
        """Its name in the log, where two trainings of one network may run side by side."""
        return TITLES[self.kind] + (" with its adversary" if self.stage.gan.enabled else "")


class RegressionStep(TrainingStep):
    """L1, perceptual, border and adversarial terms of the image that a decoder makes of a frozen encoder's latent.

    Args:
        model: encoder and decoder; the decoder trains.
        stage: weights of the losses and the seed of all draws.
        networks: the pretrained networks of the loss.
        adaptive: see `RegressionJob`.
        deviation: (C,), of the latents, for `latent_noise`.
    """

    exported = ("encoder", "decoder")
    pretrained_children = ("lpips",)

    def __init__(
        self,
        model: KLAutoencoder | FeedForward,
        stage: RegressionParameters,
        networks: LossNetworks,
        adaptive: bool = True,
        deviation: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.stage, self.adaptive, self.deviation = stage, adaptive, deviation
        self.upscale = model.upscale
        self.encoder = model.encoder.requires_grad_(False)
        self.decoder = model.decoder.requires_grad_(True)
        if networks.lpips is not None:
            self.lpips = networks.lpips
        self.perceptual = perceptual_distance(stage.loss, networks.lpips)
        if stage.gan.enabled:
            object.__setattr__(self, "adversary", Adversary(stage.gan))

    def compile_networks(self) -> None:
        """Compiles encoder and decoder."""
        self.encoder.compile()
        self.decoder.compile()

    def forward(self, batch: dict[str, Any], step: int) -> StepLosses:
        """Losses of `image` (B, 3, H, W) and `index` (B,)."""
        x = batch["image"]
        with torch.no_grad():
            posterior = self.encoder(shrink(x, self.upscale), check_finite=False)
            if self.stage.latent == "sample":
                seeds = sample_seeds(self.stage.seed, "posterior", step, batch["index"].tolist())
                z = posterior.sample(noise=sample_noise(seeds, posterior.mean.shape[1:], x.device))
            else:
                z = posterior.mode()
            if self.deviation is not None:
                z = add_latent_noise(z, self.deviation, self.stage, step, batch["index"].tolist())
        image, zeros = self._decode(z, x)
        losses = self._reconstruction(x, image)
        if isinstance(self.adversary, Adversary):
            losses.terms["gan"] = losses.terms["gan_weight"] = torch.zeros_like(losses.total)  # see `StepLosses.terms`
            if self.adversary.active(step):
                self._add_adversarial(losses, x, image, zeros, self.adversary)
        return losses

    def _decode(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the image (B, 3, H, W), float32, and zeros of its shape."""
        zeros = torch.zeros_like(x)
        if isinstance(self.decoder, KLDecoder):
            return self.decoder(z).float(), zeros
        t = torch.ones(len(x), device=x.device)
        # At t = 1 the clean image is x_t + v, and x_t is zero.
        return self.decoder.predict(zeros, t, self.decoder.condition(z)).velocity.float(), zeros

    def _reconstruction(self, x: Tensor, image: Tensor) -> StepLosses:
        weights: RegressionWeights = self.stage.loss
        l1 = F.l1_loss(image, x.float())
        losses = StepLosses(weights.l1 * l1, {"l1": l1})
        if self.perceptual is not None:
            value = losses.terms[weights.perceptual] = self.perceptual(x, image)
            losses.total = losses.total + weights.perceptual_weight * value
        if weights.border and self.decoder.config.patch_size > 1:
            value = losses.terms["border"] = patch_border_loss(x, image, self.decoder.config.patch_size)
            losses.total = losses.total + weights.border * value
        return losses

    def _add_adversarial(
        self, losses: StepLosses, x: Tensor, image: Tensor, zeros: Tensor, adversary: Adversary
    ) -> None:
        # The discriminator also takes a noisy image and a time. Here is no noise, so it gets zeros at t = 1.
        t = torch.ones(len(x), device=x.device)
        value = adversary.generator_loss(image, zeros, t)
        # The gradient through the discriminator is computed once, for the weight and for the decoder.
        (slope,) = torch.autograd.grad(value, image)
        linear = (slope * image).sum()
        gan = losses.terms["gan"] = value.detach() + (linear - linear.detach())
        weight = self._adaptive_weight(losses.total, image, slope) if self.adaptive else torch.ones_like(gan)
        losses.terms["gan_weight"] = weight
        losses.total = losses.total + self.stage.gan.generator_weight * weight * gan
        losses.for_adversary = {"real": x.float(), "fake": image.detach(), "x_t": zeros, "t": t}

    def _adaptive_weight(self, reconstruction: Tensor, image: Tensor, slope: Tensor) -> Tensor:
        """Returns the factor that makes the adversarial gradient at the last layer as large as the other one.

        Args:
            reconstruction: scalar, the other terms.
            image: (B, 3, H, W), of the decoder.
            slope: (B, 3, H, W), the adversarial term's gradient in that image.
        """
        last = self.decoder.last_layer if isinstance(self.decoder, KLDecoder) else self.decoder.conv_out.weight
        ours, theirs = (
            torch.autograd.grad(output, last, gradient, retain_graph=True)[0].float().norm()
            for output, gradient in ((reconstruction, None), (image, slope))
        )
        return (ours / (theirs + GRADIENT_EPS)).clamp(0, LARGEST_WEIGHT).detach()


def run_regression(job: RegressionJob) -> TrainResult:
    """Trains, in `runtime.processes` processes; goes on where an earlier call of the same fingerprint stopped.

    Raises:
        ValueError: a setting, checkpoint or pretrained network does not fit; before anything is trained.
        NotFiniteError, WorkerFailed: training broke off.
        SystemExit: SIGTERM or SIGINT came; the state is saved.
    """
    if job.runtime.processes > 1:
        find_networks(job.stage.pretrained_networks, job.pretrained_networks)
    with kept_threads():
        return launch(_train, job.runtime.processes, job)


def build_step(job: RegressionJob) -> tuple[KLAutoencoder | FeedForward, RegressionStep]:
    """Builds the networks and the step module from the seed; the global random state stays the same."""
    networks = load_loss_networks(job.stage.loss, job.pretrained_networks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.stage.seed)
        encoder = load_encoder(job.encoder)
        model: KLAutoencoder | FeedForward
        if job.start is not None:
            model = KLAutoencoder.from_pretrained(job.start)
        elif isinstance(job.network, KLDecoderConfig):
            model = KLAutoencoder(encoder, KLDecoder(job.network))
        else:
            model = FeedForward(encoder.config, job.network)
            model.encoder = encoder
        model.decoder.gradient_checkpointing = job.stage.gradient_checkpointing and job.kind == "feed_forward"
        deviation = channel_deviation(encoder, job.images, job.stage, job.runtime, model.upscale)
        return model, RegressionStep(model, job.stage, networks, job.adaptive, deviation)


def _train(job: RegressionJob) -> TrainResult:
    model, step = build_step(job)
    if is_measured(job.stage, job.runtime):
        choose_threads(trial_step(step, job.images, job.stage, job.runtime, job.folder), job.title)
        model, step = build_step(job)  # again: the trial leaves gradients and moved buffers
    networks = load_networks(networks_of(job.stage.eval_metrics), job.pretrained_networks)
    return train(
        step,
        job.images,
        job.stage,
        job.runtime,
        job.folder,
        job.fingerprint,
        export=model.save_pretrained,
        evaluate=Evaluator(model, job.validation, job.stage, job.runtime.workers, networks),  # type: ignore[arg-type]
        title=job.title,
    )


def network_of(decoder: dict[str, Any], stage: RegressionParameters) -> KLDecoderConfig | DecoderConfig:
    """Returns the shape of the network that a stage trains.

    Args:
        decoder: the fields of SSDD's `DecoderConfig`.
        stage: of the KL-VAE's decoder, or of SSDD's network.
    """
    ssdd = DecoderConfig(**decoder)
    if not isinstance(stage, KLParameters):
        return ssdd
    given = ("width", "resnets_per_level", "norm_groups", "patch_size", "shortcut")
    return matching_config(ssdd, **{name: getattr(stage, name) for name in given})


def split_epochs(total: int, share: float) -> tuple[int, int]:
    """Splits the epochs of the KL-VAE's decoder into those before its adversary joins and those after.

    Args:
        total: at least 2.
        share: of the epochs before, rounded down; one epoch at least stays on each side.

    Raises:
        ValueError: there is one epoch alone.
    """
    if total < 2:
        raise ValueError(f"expected at least 2 epochs in train_kl, got {total}: the adversary joins between two")
    before = min(max(1, int(share * total)), total - 1)
    return before, total - before
