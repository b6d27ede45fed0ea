"""The parameters of the training loop, typed, and the base of all typed parameters."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_BATCH = 2**20  # a value beyond these limits is a typing error, refused before memory or hours are spent


class Frozen(BaseModel):
    """Base of all parameter models: immutable, and a mistyped key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimConfig(Frozen):
    """The optimiser.

    The published recipe states neither a weight decay nor the learning rate of its first stage: 0.01 and 1e-4 are our
    choice. Short runs from scratch need a far higher rate with the schedule-free optimiser (1e-2).
    """

    optimizer: Literal["radam_schedulefree", "adamw"] = Field(
        default="radam_schedulefree", description="schedule-free RAdam is published"
    )
    lr: float = Field(default=1e-4, gt=0, description="learning rate")
    weight_decay: float = Field(default=0.01, ge=0, description="of weights of linears, convolutions and norms")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="decay rates of the two moments")
    eps: float = Field(default=1e-8, gt=0, description="added to the denominator of the update")
    clip: float = Field(default=0.1, gt=0, description="largest gradient norm")
    r: float = Field(default=0.0, ge=0, le=10, description="of schedule-free RAdam: step n counts n^r in the average")

    @model_validator(mode="after")
    def _betas_in_range(self) -> "OptimConfig":
        if not all(0 < beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas between 0 and 1, got {self.betas}: try (0.9, 0.999)")
        return self


class EmaConfig(Frozen):
    """Moving average of the weights: follows them exactly up to `start_step`, then min(decay, (1+n)/(10+n))."""

    decay: float = Field(default=0.999, ge=0, lt=1, description="share of the old average that a step keeps")
    start_step: int = Field(default=50_000, ge=0, description="optimiser steps before the average begins")


class GanConfig(Frozen):
    """The adversarial term; off by default, as published."""

    enabled: bool = Field(default=False, description="whether a discriminator trains along")
    generator_weight: float = Field(default=0.5, ge=0, description="weight of the term in the decoder's loss")
    discriminator_weight: float = Field(default=1.0, gt=0, description="factor of the discriminator's own loss")
    start_step: int = Field(default=50_000, ge=0, description="optimiser steps before the discriminator joins")
    lr: float = Field(default=1e-4, gt=0, description="learning rate of the discriminator")
    channels: int = Field(
        default=64, ge=32, le=1024, multiple_of=32, description="of the discriminator's first layer, in groups of 32"
    )


class LoopParameters(Frozen):
    """What the training loop itself reads of a stage, whatever the stage trains."""

    extends: ClassVar[tuple[str, ...]] = ("epochs",)

    epochs: int = Field(default=300, ge=1, le=1_000_000, description="more only go on from fewer")
    batch_size: int = Field(default=256, ge=1, le=MOST_BATCH, description="images of a step, over all processes")
    accumulation: int = Field(default=1, ge=1, le=MOST_BATCH, description="pieces of a batch, to save memory")
    precision: Literal["no", "bf16", "fp16"] = Field(
        default="bf16", description="of the networks while they train; no: float32"
    )
    compile: bool = Field(default=False, description="compile the networks with torch.compile")
    gradient_checkpointing: bool = Field(default=False, description="less memory, more time")
    channels_last: bool = Field(default=True, description="memory layout of the networks")
    eval_every: int = Field(default=4, ge=1, description="epochs; the last epoch is always evaluated")
    eval_batch_size: int = Field(default=32, ge=1, le=MOST_BATCH, description="images at a time per process")
    log_every: int = Field(default=200, ge=1, description="steps")
    best_metric: str = Field(default="rfid", description="metric of eval_metrics that chooses the best checkpoint")
    best_is: Literal["lowest", "highest"] = Field(
        default="lowest", description="which value of best_metric is the best"
    )
    seed: int = Field(default=0, ge=0, lt=2**63, description="of every random draw")
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    gan: GanConfig = GanConfig()
