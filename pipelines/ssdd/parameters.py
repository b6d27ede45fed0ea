"""The parameters of every stage, typed: what `conf/*/parameters*.yml` and `--params` may say."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_BATCH = 2**20  # beyond these a value is a slip of the keyboard, refused before memory or hours are spent
MOST_STEPS = 10_000  # of a sampler, as in ssdd_decoder
MOST_SIDE = 16_384  # pixels


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
    """Weights of the loss terms; a term of weight 0 is neither computed nor needs its pretrained network."""

    flow_matching: float = Field(default=1.0, ge=0)
    perceptual: Literal["lpips", "msgrad", "none"] = "lpips"
    perceptual_weight: float = Field(default=0.5, ge=0)
    repa: float = Field(default=0.25, ge=0)
    kl: float = Field(default=1e-6, ge=0, description="counts only while the encoder trains")

    @property
    def pretrained_networks(self) -> tuple[str, ...]:
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


class NetworkFile(Frozen):
    """Where a pretrained network's weights lie, if not in the usual cache. The place never changes a result."""

    neutral: ClassVar[tuple[str, ...]] = ("file",)

    file: str | None = Field(default=None, description="local file; for dreamsim, its folder")
    sha256: str | None = Field(default=None, description="leading digits to insist on, instead of the published ones")


class PretrainedNetworks(Frozen):
    """The pretrained networks of losses and metrics, by the names that `ssdd_metrics` gives them."""

    inception: NetworkFile = NetworkFile()
    lpips_alex: NetworkFile = NetworkFile()
    lpips_vgg: NetworkFile = NetworkFile()
    dinov2: NetworkFile = NetworkFile()
    dreamsim: NetworkFile = NetworkFile()


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


Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]


class DataParameters(Frozen):
    """Where the images are. The place itself never changes a result: the index holds the hash of every image."""

    neutral: ClassVar[tuple[str, ...]] = ("root",)

    kind: Literal["sample", "folder", "imagenet", "huggingface"] = "sample"
    root: str | None = Field(default=None, description="folder of the images; for huggingface, a saved data set")
    hub: str | None = Field(default=None, description="id of a data set on the Hugging Face hub, instead of root")
    options: dict[str, Any] = Field(default={}, description="further arguments of the source, see ssdd.data")
    sample: dict[str, Any] = Field(default={}, description="arguments of the embedded sample, for kind=sample")

    @model_validator(mode="after")
    def _has_a_place(self) -> "DataParameters":
        if self.kind == "sample" and (self.root or self.hub):
            raise ValueError("data.kind=sample takes no data.root: set data.kind to folder, imagenet or huggingface")
        if self.kind != "sample" and not (self.root or (self.hub and self.kind == "huggingface")):
            raise ValueError(f"data.kind={self.kind} needs data.root: the folder where your images are")
        return self


class PrepareParameters(Frozen):
    """Which images are used: see `ssdd.data.image_index.index_images`."""

    limit: int | None = Field(default=None, ge=1, description="images per split; for a dry run")
    min_side: int = Field(default=16, ge=1)
    held_out: float = Field(default=0.05, ge=0, lt=1)
    max_rejected: float = Field(default=0.05, ge=0, le=1)


class ModelParameters(Frozen):
    """The networks, by name: `f<F>c<C>` or `sdvae`, and XS, S, B, M, L, XL, H."""

    encoder: str = "f8c4"
    decoder: str = "M"


class StageParameters(TrainConfig):
    """A training stage: the engine's settings, and the images that it sees."""

    extends: ClassVar[tuple[str, ...]] = ("epochs",)

    im_size: int = Field(default=128, ge=8, le=MOST_SIDE)
    aug_scale: float = Field(default=1.0, ge=1, le=8)
    eval_steps: int = Field(default=8, ge=1, le=MOST_STEPS, description="sampler steps of the periodic evaluation")
    eval_images: int | None = Field(default=None, ge=1, description="of the periodic evaluation; all by default")
    eval_metrics: str | tuple[str, ...] = "full"
    eval_batch_size: int = Field(default=32, ge=1, le=MOST_BATCH, description="images at a time per process")
    eval_shown: int = Field(default=8, ge=0, le=64, description="sample images for the trackers")

    @property
    def pretrained_networks(self) -> tuple[str, ...]:
        """The pretrained networks that the loss and the periodic evaluation ask."""
        return (*self.loss.pretrained_networks, *_networks_of(self.eval_metrics))


class PretrainParameters(StageParameters):
    """Stage 1; `initialize=joint` goes on from the decoder that was trained along with the encoder."""

    initialize: Literal["fresh", "joint"] = "fresh"


class TargetParameters(Frozen):
    """The teacher's results that distillation learns: computed for each batch, or once and kept."""

    teacher_steps: int = Field(default=7, ge=1, le=MOST_STEPS)
    cached: bool = False
    images: int | None = Field(default=None, ge=1, description="training images whose results are kept; all by default")
    dtype: Literal["float16", "float32"] = "float16"
    shard_size: int = Field(default=1024, ge=1, description="images per file")


class StatisticsParameters(Frozen):
    """Latent statistics over the held-out images."""

    im_size: int = Field(default=256, ge=8, le=MOST_SIDE)
    batch_size: int = Field(default=16, ge=1, le=MOST_BATCH)
    limit: int | None = Field(default=None, ge=1)


class EvaluateParameters(Frozen):
    """How models are judged; printed with every number."""

    im_size: int = Field(default=256, ge=8, le=MOST_SIDE)
    batch_size: int = Field(default=32, ge=1, le=MOST_BATCH)
    limit: int | None = Field(default=None, ge=1, description="held-out images; all by default")
    teacher_steps: tuple[Steps, ...] = Field(default=(8, 1), min_length=1)
    student_steps: tuple[Steps, ...] = Field(default=(1,), min_length=1)
    metrics: str | tuple[str, ...] = "full"
    noise_seed: int = Field(default=0, ge=0, lt=2**63)
    precision: Literal["float32", "bfloat16"] = "float32"
    shown: int = Field(default=8, ge=1, le=64, description="images kept to look at")

    @property
    def pretrained_networks(self) -> tuple[str, ...]:
        """The pretrained networks that the metrics ask."""
        return _networks_of(self.metrics)


def _networks_of(metrics: str | tuple[str, ...]) -> tuple[str, ...]:
    from ssdd_metrics import networks_of

    return networks_of(metrics)


Side = Literal["ssdd", "ssdd_compiled", "dense", "kl", "kl_compiled"]
Dtype = Literal["float32", "bfloat16", "float16"]
Size = Literal["debug", "quickstart", "XS", "S", "B", "M", "L", "XL", "H"]


class DecodeSweep(Frozen):
    """Decoding: all combinations of what is listed, the sides of each alternated in one process."""

    sizes: tuple[Size, ...] = ("S",)
    pixels: tuple[int, ...] = Field(default=(256,), description="side of the square images")
    batch_sizes: tuple[int, ...] = (1,)
    steps: tuple[int, ...] = (1,)
    dtypes: tuple[Dtype, ...] = ("float32",)
    sides: tuple[Side, ...] = Field(default=("ssdd", "dense", "kl"), min_length=1)
    rounds: int = Field(default=5, ge=1)


class TrainingSweep(Frozen):
    """Training steps: ours against the dense form, checkpointing, distillation live and cached."""

    size: Size = "S"
    dtypes: tuple[Dtype, ...] = ("float32",)
    pixels: int = Field(default=128, ge=8)
    batch_size: int = Field(default=4, ge=1)
    checkpointing_pixels: int = Field(default=256, ge=8)
    checkpointing_batch_size: int = Field(default=1, ge=1)
    distillation_pixels: int = Field(default=64, ge=8)
    distillation_batch_size: int = Field(default=4, ge=1)
    teacher_steps: int = Field(default=7, ge=1)
    rounds: int = Field(default=5, ge=1)


class BenchmarkParameters(Frozen):
    """The benchmark; the device is `runtime.device`."""

    threads: int | None = Field(default=None, ge=1, description="CPU threads; all cores by default")
    decoding: tuple[DecodeSweep, ...] = (DecodeSweep(),)
    training: TrainingSweep = TrainingSweep()
    quality_rounds: int = Field(default=5, ge=1, description="of the timing behind the figure of quality and speed")
