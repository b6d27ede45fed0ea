"""What a training run is made of, typed: every key is known, every default is the published one where one is."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_BATCH = 2**20  # beyond these a value is a slip of the keyboard, refused before memory or hours are spent
MOST_STEPS = 10_000  # of a sampler, as in ssdd_decoder


class Frozen(BaseModel):
    """Base of all parameter models: immutable, and a mistyped key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimConfig(Frozen):
    """The optimiser; `weight_decay` and its share of parameters: see `optim.parameter_groups`.

    The published recipe names no weight decay and no rate for its first stage: 0.01 and 1e-4 are ours.
    Short runs from scratch want a far higher rate with the schedule-free optimiser (1e-2).
    """

    optimizer: Literal["radam_schedulefree", "adamw"] = "radam_schedulefree"
    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=0.1, gt=0, description="largest gradient norm")

    @model_validator(mode="after")
    def _betas_in_range(self) -> "OptimConfig":
        if not all(0 < beta < 1 for beta in self.betas):
            raise ValueError(f"expected betas between 0 and 1, got {self.betas}: try (0.9, 0.999)")
        return self


class EmaConfig(Frozen):
    """Moving average of the weights: follows them exactly up to `start_step`, then min(decay, (1+n)/(10+n))."""

    decay: float = Field(default=0.999, ge=0, lt=1)
    start_step: int = Field(default=50_000, ge=0)


class LossWeights(Frozen):
    """Weights of the loss terms; a term of weight 0 is neither computed nor needs its judge."""

    flow_matching: float = Field(default=1.0, ge=0)
    perceptual: Literal["lpips", "msgrad", "none"] = "lpips"
    perceptual_weight: float = Field(default=0.5, ge=0)
    repa: float = Field(default=0.25, ge=0)
    kl: float = Field(default=1e-6, ge=0, description="counts only while the encoder trains")

    @property
    def judges(self) -> tuple[str, ...]:
        """The pretrained networks that these terms ask."""
        lpips = self.perceptual == "lpips" and self.perceptual_weight > 0
        return (("lpips_vgg",) if lpips else ()) + (("dinov2",) if self.repa > 0 else ())


class GanConfig(Frozen):
    """The adversarial term; off by default, as published."""

    enabled: bool = False
    generator_weight: float = Field(default=0.5, ge=0)
    discriminator_weight: float = Field(default=1.0, gt=0)
    start_step: int = Field(default=50_000, ge=0)
    lr: float = Field(default=1e-4, gt=0)


class TrainConfig(Frozen):
    """Everything that decides what comes out of a training run (besides the data and the networks).

    `batch_size` counts the images of one optimiser step over all processes; `accumulation` cuts that batch into
    so many pieces, one after the other, to save memory.
    """

    epochs: int = Field(default=300, ge=1, le=1_000_000)
    batch_size: int = Field(default=256, ge=1, le=MOST_BATCH)
    accumulation: int = Field(default=1, ge=1, le=MOST_BATCH)
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    compile: bool = False
    gradient_checkpointing: bool = False
    channels_last: bool = True
    latent: Literal["sample", "mode"] = Field(default="sample", description="z of a frozen encoder")
    eval_every: int = Field(default=4, ge=1, description="epochs; the last epoch is always evaluated")
    log_every: int = Field(default=200, ge=1, description="steps")
    best_metric: str = "rfid"
    best_is: Literal["lowest", "highest"] = "lowest"
    seed: int = Field(default=0, ge=0, lt=2**63)
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    loss: LossWeights = LossWeights()
    gan: GanConfig = GanConfig()


class JudgeFile(Frozen):
    """Where a pretrained judge's weights lie, if not in the usual cache. The place never changes a result."""

    neutral: ClassVar[tuple[str, ...]] = ("file",)

    file: str | None = Field(default=None, description="local file; for dreamsim, its folder")
    sha256: str | None = Field(default=None, description="leading digits to insist on, instead of the published ones")


class JudgeFiles(Frozen):
    """The judges of losses and metrics, by the names that `ssdd_metrics` gives them."""

    inception: JudgeFile = JudgeFile()
    lpips_alex: JudgeFile = JudgeFile()
    lpips_vgg: JudgeFile = JudgeFile()
    dinov2: JudgeFile = JudgeFile()
    dreamsim: JudgeFile = JudgeFile()


class EvalConfig(Frozen):
    """Periodic evaluation on the validation images.

    `steps` counts Euler steps of the decoder: 1 for distilled ones. `best_metric` of `TrainConfig` must be among
    the figures that `metrics` gives.
    """

    metrics: str | tuple[str, ...] = "full"
    steps: int = Field(default=8, ge=1, le=MOST_STEPS)
    batch_size: int = Field(default=32, ge=1, le=MOST_BATCH, description="images at a time per process")
    shown: int = Field(default=8, ge=0, description="sample images for the trackers")


class DistillConfig(Frozen):
    """What distillation adds: the teacher's number of steps and whether its results are cached."""

    teacher_steps: int = Field(default=7, ge=1, le=MOST_STEPS)
    cached: bool = False
    cache_dtype: Literal["float16", "float32"] = "float16"
    shard_size: int = Field(default=1024, ge=1, description="images per shard of the cache")


class RuntimeConfig(Frozen):
    """Where and how a run is carried out: never changes a result, so it never enters a fingerprint."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads of all processes; torch decides")
    processes: int = Field(default=1, ge=1, le=256)
    workers: int = Field(default=4, ge=0, le=256, description="data loader workers per process")
    save_every: int = Field(default=1000, ge=1, description="steps between two resume states")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    progress: bool = True


def pieces_per_process(config: TrainConfig, processes: int) -> int:
    """Returns how many images one process puts through the network at a time.

    Raises:
        ValueError: the batch cannot be cut into equal pieces.
    """
    parts = processes * config.accumulation
    if config.batch_size % parts:
        raise ValueError(
            f"expected batch_size to be a multiple of processes x accumulation = {processes} x "
            f"{config.accumulation} = {parts}, got {config.batch_size}: change batch_size or accumulation"
        )
    return config.batch_size // parts
