"""The parameters of the comparison, typed: the decoders trained for it, and what is measured of all rows."""

from typing import ClassVar

from pydantic import Field, model_validator

from ssdd.parameters import MOST_BATCH, MOST_SIDE, MOST_STEPS, Frozen, GanConfig, LossWeights, StageParameters


class RegressionWeights(LossWeights):
    """Weights of the loss of a decoder that sees no noise: L1, the perceptual term and the border term."""

    l1: float = Field(default=1.0, ge=0, description="weight of the mean absolute error of pixels")
    repa: float = Field(default=0.0, ge=0, description="always 0: these networks have no tokens to align")

    @model_validator(mode="after")
    def _has_no_tokens(self) -> "RegressionWeights":
        if self.repa:
            raise ValueError(f"expected repa 0 for a decoder that is trained by regression, got {self.repa}")
        return self


class RegressionParameters(StageParameters):
    """Training of a decoder by regression on the frozen encoder, for the comparison with SSDD.

    Its default budget is SSDD's: as many image views as the SSDD stages together, see `ssdd.stages.train_kl`.
    """

    extends: ClassVar[tuple[str, ...]] = ()  # the adversary's start follows from the number of steps

    epochs: int | None = Field(  # type: ignore[assignment]
        default=None, ge=1, le=1_000_000, description="null: as many image views as the SSDD stages, rounded up"
    )
    eval_steps: int = Field(default=1, ge=1, le=MOST_STEPS, description="without effect: there is one call")
    loss: RegressionWeights = RegressionWeights()

    @model_validator(mode="after")
    def _has_its_adversary_elsewhere(self) -> "RegressionParameters":
        if self.gan.enabled:
            raise ValueError(
                "expected gan.enabled false here, got true: the adversarial row has parameters of its own, kl_adversary"
            )
        return self


class KLParameters(RegressionParameters):
    """Training of the KL-VAE's decoder, and its shape: by default the nearest to SSDD's in parameters."""

    width: int | None = Field(default=None, ge=1, le=4096, description="channels at full resolution; null: the nearest")
    resnets_per_level: int | None = Field(default=None, ge=1, le=32, description="null: as SSDD's decoder")
    norm_groups: int | None = Field(default=None, ge=1, le=4096, description="null: as SSDD's decoder")
    patch_size: int | None = Field(default=None, ge=1, le=64, description="1 is published; null: as SSDD's decoder")
    shortcut: bool | None = Field(default=None, description="false is published; null: as SSDD's decoder")


class AdversaryParameters(Frozen):
    """The adversary of the KL-VAE's second row (Esser et al., 2021)."""

    start: float = Field(default=0.5, ge=0, le=1, description="share of the steps before the adversary joins")
    adaptive: bool = Field(default=True, description="scale the term so that its gradient is as large as the others'")
    generator_weight: float = Field(default=0.5, ge=0, description="weight of the term, after that scaling")
    discriminator_weight: float = Field(default=1.0, gt=0, description="factor of the discriminator's own loss")
    lr: float = Field(default=1e-4, gt=0, description="learning rate of the discriminator")

    def at(self, steps: int) -> GanConfig:
        """Returns the adversary of a training of so many steps."""
        return GanConfig(
            enabled=True,
            generator_weight=self.generator_weight,
            discriminator_weight=self.discriminator_weight,
            start_step=round(self.start * steps),
            lr=self.lr,
        )


class SpeedParameters(Frozen):
    """Timing of all rows of the comparison, alternated in one process."""

    pixels: tuple[int, ...] = Field(default=(256, 512), description="sides beside that of the evaluation")
    rounds: int = Field(default=5, ge=1, le=1000, description="timings of each row")
    batch_size: int = Field(default=1, ge=1, le=MOST_BATCH, description="images decoded at a time")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; all cores by default")
    training_rounds: int = Field(default=5, ge=1, le=1000, description="timings of a training step of each kind")


class GridParameters(Frozen):
    """The figure of crops where the decoders differ most."""

    images: int = Field(default=6, ge=1, le=64, description="columns")
    crop: int = Field(default=32, ge=8, le=MOST_SIDE, description="side of a crop, pixels")
