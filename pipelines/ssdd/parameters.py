"""The parameters of every stage, typed: what `conf/*/parameters*.yml` and `--params` may say."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ssdd.training.config import MOST_BATCH, MOST_STEPS, Frozen, JudgeFiles, RuntimeConfig, TrainConfig

__all__ = [
    "DataParameters",
    "EvaluateParameters",
    "JudgeFiles",
    "ModelParameters",
    "PrepareParameters",
    "PretrainParameters",
    "RuntimeConfig",
    "StageParameters",
    "StatisticsParameters",
    "TargetParameters",
]

MOST_SIDE = 16_384  # pixels
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
    """Which images are used: see `ssdd.data.prepare`."""

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
    def judges(self) -> tuple[str, ...]:
        """The pretrained networks that the loss and the periodic evaluation ask."""
        return (*self.loss.judges, *_judges_of(self.eval_metrics))


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
    def judges(self) -> tuple[str, ...]:
        """The pretrained networks that the metrics ask."""
        return _judges_of(self.metrics)


def _judges_of(metrics: str | tuple[str, ...]) -> tuple[str, ...]:
    from ssdd_metrics import judges_of

    return judges_of(metrics)
