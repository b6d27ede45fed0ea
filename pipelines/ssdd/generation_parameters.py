"""The parameters of generation, typed: latents in shards, the training of a generator, its samples, their speed."""

import re
from typing import Literal

from pydantic import Field, model_validator

from ssdd.parameters import MOST_BATCH, MOST_SIDE, MOST_STEPS, Frozen, LoopParameters


class LatentsParameters(Frozen):
    """Latents of all images in shards: what a generator trains on."""

    im_size: int = Field(default=256, ge=8, le=MOST_SIDE, description="side of the square images, pixels")
    batch_size: int = Field(default=32, ge=1, le=MOST_BATCH, description="images at a time per process")
    limit: int | None = Field(default=None, ge=1, description="images per split; all by default")
    keep: Literal["posterior", "mode"] = Field(
        default="posterior", description="mean and logvar, from which latents can be sampled, or the mean alone"
    )
    flipped: bool = Field(default=False, description="also the latents of the mirrored images")
    dtype: Literal["float16", "bfloat16", "float32"] = Field(default="float16", description="of the stored latents")
    shard_size: int = Field(default=1024, ge=1, description="images per file")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="of the encoder's computation")


class GeneratorTimes(Frozen):
    """Training times of the generator, from 0 (latent) to 1 (noise)."""

    distribution: Literal["logit_normal", "uniform"] = Field(
        default="logit_normal", description="uniform: mean and std have no effect"
    )
    mean: float = Field(default=0.0, ge=-10, le=10, description="of the logit; above 0: nearer to noise")
    std: float = Field(default=1.0, gt=0, le=10, description="of the logit")


class GeneratorParameters(LoopParameters):
    """Training of a diffusion transformer on the latents."""

    size: str = Field(default="XL", description="quickstart, S, B, L, XL")
    patch_size: Literal[1, 2, 4] = Field(default=2, description="cells per side of a token")
    num_classes: int | None = Field(
        default=None, ge=0, le=1000, description="0: no classes; null: as many as the images' folders name"
    )
    label_dropout: float = Field(default=0.1, ge=0, le=1, description="share of images without their class: guidance")
    latent: Literal["sample", "mode"] = Field(default="mode", description="z of the shards, where they hold both")
    flip: bool = Field(default=False, description="half the images mirrored, where the shards hold such latents")
    times: GeneratorTimes = GeneratorTimes()
    eval_images: int | None = Field(default=None, ge=1, description="held-out latents; all by default")
    best_metric: Literal["flow_loss"] = Field(
        default="flow_loss", description="error of the velocity on held-out latents"
    )

    @model_validator(mode="after")
    def _has_no_adversary(self) -> "GeneratorParameters":
        if self.gan.enabled:
            raise ValueError("expected gan.enabled false, got true: a generator trains without an adversary")
        return self


class SamplingParameters(Frozen):
    """How latents are drawn."""

    method: Literal["euler", "heun"] = Field(default="euler", description="of the sampler")
    steps: int = Field(default=50, ge=1, le=MOST_STEPS, description="of the sampler; heun calls the network twice")
    guidance: float = Field(default=1.0, ge=0, le=100, description="classifier-free guidance; 1: none")
    shift: float = Field(default=1.0, gt=0, le=100, description="above 1: times of the sampler nearer to noise")


class GenerateParameters(SamplingParameters):
    """The samples of a run."""

    other_steps: tuple[int, ...] = Field(default=(), description="of the sampler: more samples, for the figure")
    count: int = Field(default=50_000, ge=2, le=10_000_000, description="images")
    seed: int = Field(default=0, ge=0, lt=2**62, description="of the first image; image k has the seed + k")
    batch_size: int = Field(default=64, ge=1, le=MOST_BATCH, description="images at a time")
    classes: tuple[int, ...] = Field(default=(), description="classes in turn; all by default")
    teacher_steps: int = Field(default=8, ge=1, le=MOST_STEPS, description="of the teacher, when it decodes")
    shown: int = Field(default=64, ge=1, le=1024, description="images on the contact sheet")


class KLSamplesParameters(Frozen):
    """The samples of a run, decoded by a KL-VAE too."""

    enabled: bool = Field(default=False, description="decode with the run's KL-VAE, which is trained if need be")


class SampleSpeedParameters(Frozen):
    """Timing of sampling and decoding, apart; sides alternate in one process."""

    rounds: int = Field(default=5, ge=1, le=1000, description="timings of each side")
    batch_size: int = Field(default=16, ge=1, le=MOST_BATCH, description="images at a time")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; all cores by default")


class SpeedOfSpaces(SamplingParameters):
    """The speed of one transformer on latents of several spaces, with decoders of random weights."""

    size: str = Field(default="XL", description="of the transformer")
    patch_size: Literal[1, 2, 4] = Field(default=2, description="cells per side of a token")
    classes: int = Field(default=1000, ge=1, le=1000, description="of the transformer")
    latents: tuple[str, ...] = Field(default=("f8c4", "f16c16", "f32c64"), min_length=1, description="f<F>c<C>")
    pixels: int = Field(default=256, ge=8, le=MOST_SIDE, description="side of the images")
    decoder: str = Field(default="M", description="size of SSDD's decoder")
    decoder_steps: tuple[int, ...] = Field(default=(1, 8), min_length=1, description="of SSDD's decoder")
    kl_width: int = Field(default=128, ge=0, le=4096, description="of the KL-VAE's decoder; 0: it is not timed")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="number format of the networks")
    timed_steps: int = Field(default=2, ge=1, le=MOST_STEPS, description="of the sampler; the time of all follows")
    rounds: int = Field(default=5, ge=1, le=1000, description="timings of each side")
    batch_size: int = Field(default=1, ge=1, le=MOST_BATCH, description="images at a time")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; all cores by default")

    @model_validator(mode="after")
    def _has_spaces(self) -> "SpeedOfSpaces":
        wrong = [name for name in self.latents if not re.fullmatch(r"f[1-9][0-9]{0,3}c[1-9][0-9]{0,4}", name)]
        if wrong:
            raise ValueError(f"expected latents named f<F>c<C>, such as f8c4, got {wrong}")
        return self
