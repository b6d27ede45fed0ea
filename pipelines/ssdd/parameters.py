"""The parameters of every stage, typed: one model for each group of `conf/*/parameters*.yml` and `--params`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, model_validator

from ssdd.loop_parameters import MOST_BATCH as MOST_BATCH
from ssdd.loop_parameters import EmaConfig as EmaConfig
from ssdd.loop_parameters import Frozen as Frozen
from ssdd.loop_parameters import GanConfig as GanConfig
from ssdd.loop_parameters import LoopParameters as LoopParameters
from ssdd.loop_parameters import OptimConfig as OptimConfig
from ssdd.runtime_parameters import RuntimeConfig as RuntimeConfig

MOST_STEPS = 10_000  # of a sampler, as in ssdd_decoder
MOST_SIDE = 16_384  # pixels
TEACHER_STEPS = 7  # as published

Decoding = Literal["exact", "fast"]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]


class RecolourConfig(Frozen):
    """Recolouring of training images: hue, saturation and value of a whole crop; see `ssdd.data.recolour`."""

    probability: float = Field(default=0.0, ge=0, le=1, description="share of the images that are recoloured")
    hue: float = Field(default=1.0, ge=0, le=1, description="range of the turn as a share of the circle; 1: any angle")
    saturation: tuple[PositiveFloat, PositiveFloat] = Field(default=(0.4, 2.2), description="least and largest factor")
    value: tuple[PositiveFloat, PositiveFloat] = Field(default=(0.7, 1.25), description="least and largest factor")


class AugmentConfig(Frozen):
    """Augmentations besides size, crop and flip, which are the published ones."""

    recolour: RecolourConfig = RecolourConfig()


class TimesConfig(Frozen):
    """Training times t = sigmoid(n), n normal (Esser et al., 2024); distillation has t = 1 alone and ignores them."""

    mean: float = Field(default=0.0, ge=-10, le=10, description="of n; above 0: nearer to noise, where t = 1")
    std: float = Field(default=1.0, gt=0, le=10, description="of n")


class LossWeights(Frozen):
    """Weights of the loss terms; a term of weight 0 is not computed and its pretrained network is not loaded."""

    flow_matching: float = Field(default=1.0, ge=0, description="weight of the velocity's squared error")
    perceptual: Literal["lpips", "msgrad", "none"] = Field(default="lpips", description="msgrad needs no download")
    perceptual_weight: float = Field(default=0.5, ge=0, description="weight of the term that `perceptual` names")
    perceptual_target: Literal["teacher", "image"] = Field(
        default="teacher", description="of distillation: the teacher's image, as published, or the real one"
    )
    repa: float = Field(default=0.25, ge=0, description="weight of the alignment with DINOv2's tokens")
    border: float = Field(default=0.0, ge=0, description="weight of errors of steps across the borders of patches")
    kl: float = Field(default=1e-6, ge=0, description="weight of the KL divergence, while the encoder trains")

    @property
    def pretrained_networks(self) -> tuple[str, ...]:
        """The pretrained networks that these terms use."""
        lpips = self.perceptual == "lpips" and self.perceptual_weight > 0
        return (("lpips_vgg",) if lpips else ()) + (("dinov2",) if self.repa > 0 else ())


class NetworkFile(Frozen):
    """The file of a pretrained network's weights, if not in the usual cache. Its place never changes a result."""

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
    efficientnet: NetworkFile = NetworkFile()


class DataParameters(Frozen):
    """The images. Their place never changes a result: the index holds the hash of every image."""

    neutral: ClassVar[tuple[str, ...]] = ("root",)
    texts: ClassVar[tuple[str, ...]] = ("options.column", "options.config")  # text, although `options` takes any value

    kind: Literal["sample", "folder", "imagenet", "huggingface", "tar"] = Field(
        default="sample", description="where images come from; sample: those of the project"
    )
    root: str | None = Field(default=None, description="folder of the images; for huggingface, a saved data set")
    hub: str | None = Field(default=None, description="id of a data set on the Hugging Face hub, instead of root")
    options: dict[str, Any] = Field(default={}, description="further arguments of the source, see ssdd.data")
    decoding: Decoding = Field(default="exact", description="of training images; fast: slightly other pixels")
    sample: dict[str, Any] = Field(default={}, description="arguments of the embedded sample, for kind=sample")

    @model_validator(mode="after")
    def _has_a_place(self) -> "DataParameters":
        if self.kind == "sample" and (self.root or self.hub):
            raise ValueError(
                "data.kind=sample takes no data.root: set data.kind to folder, imagenet, huggingface or tar"
            )
        if self.kind != "sample" and not (self.root or (self.hub and self.kind == "huggingface")):
            raise ValueError(f"data.kind={self.kind} needs data.root: the folder where your images are")
        return self


class PrepareParameters(Frozen):
    """Selection of the images: see `ssdd.data.image_index.index_images`."""

    limit: int | None = Field(default=None, ge=1, description="images per split; for a dry run")
    min_side: int = Field(default=16, ge=1, description="pixels; smaller images are rejected")
    held_out: float = Field(default=0.05, ge=0, lt=1, description="share for validation, where no split exists")
    max_rejected: float = Field(default=0.05, ge=0, le=1, description="share of rejected images that is an error")


class ModelParameters(Frozen):
    """The networks, by name: `f<F>c<C>`, `quickstart-f<F>c<C>`, `sdvae` or `diffusers`, and XS, S, B, M, L, XL, H."""

    encoder: str = Field(
        default="f8c4",
        description="F down-scale, C latent channels; diffusers: that of the autoencoder in encoder_checkpoint",
    )
    decoder: str = Field(default="M", description="a size from XS to H; quickstart, demo and debug are smaller")
    upscale: Literal[1, 2, 4] = Field(
        default=1, description="side of the decoder's images over that of the encoder's, from stage 1 on"
    )


class StageParameters(LoopParameters):
    """A training stage: everything that decides its result, besides the images and the networks."""

    latent: Literal["sample", "mode"] = Field(default="sample", description="z of a frozen encoder")
    latent_noise: float = Field(default=0.0, ge=0, le=10, description="largest on z, in deviations of the channel")
    im_size: int = Field(default=128, ge=8, le=MOST_SIDE, description="side of the square images, pixels")
    augment: AugmentConfig = AugmentConfig()
    aug_scale: float = Field(default=1.0, ge=1, le=8, description="images are cropped from up to this times im_size")
    eval_steps: int = Field(default=8, ge=1, le=MOST_STEPS, description="sampler steps; 1 for distilled decoders")
    eval_images: int | None = Field(default=None, ge=1, description="of the periodic evaluation; all by default")
    eval_metrics: str | tuple[str, ...] = Field(default="full", description="names, or the name of a list of them")
    eval_shown: int = Field(default=8, ge=0, le=64, description="sample images for the trackers")
    times: TimesConfig = TimesConfig()
    loss: LossWeights = LossWeights()

    @property
    def pretrained_networks(self) -> tuple[str, ...]:
        """The pretrained networks that the loss and the periodic evaluation use."""
        return (*self.loss.pretrained_networks, *_networks_of(self.eval_metrics))


class PretrainParameters(StageParameters):
    """Stage 1; `initialize=joint` goes on from the decoder that was trained along with the encoder.

    An encoder of diffusers (`model.encoder=diffusers`) has no such decoder, so its decoder starts from random weights.
    """

    initialize: Literal["fresh", "joint"] = Field(
        default="fresh", description="fresh: random weights; joint: those that trained along with the encoder"
    )


class TargetParameters(Frozen):
    """The teacher's results that distillation learns: computed for each batch, or once and kept."""

    teacher_steps: int = Field(default=TEACHER_STEPS, ge=1, le=MOST_STEPS, description="Euler steps of the teacher")
    cached: bool = Field(default=False, description="compute the results once and keep them")
    images: int | None = Field(default=None, ge=1, description="training images whose results are kept; all by default")
    dtype: Literal["float16", "float32"] = Field(default="float16", description="of the kept images")
    shard_size: int = Field(default=1024, ge=1, description="images per file")


class StatisticsParameters(Frozen):
    """Latent statistics over the held-out images."""

    im_size: int = Field(default=256, ge=8, le=MOST_SIDE, description="side of the square images, pixels")
    batch_size: int = Field(default=16, ge=1, le=MOST_BATCH, description="images at a time")
    limit: int | None = Field(default=None, ge=1, description="held-out images; all by default")


class EvaluateParameters(Frozen):
    """The protocol of the final evaluation; printed with every number."""

    im_size: int = Field(default=256, ge=8, le=MOST_SIDE, description="side of the square images, pixels")
    batch_size: int = Field(default=32, ge=1, le=MOST_BATCH, description="images at a time per process")
    limit: int | None = Field(default=None, ge=1, description="held-out images; all by default")
    teacher_steps: tuple[Steps, ...] = Field(default=(8, 1), min_length=1, description="sampler steps, each evaluated")
    student_steps: tuple[Steps, ...] = Field(default=(1,), min_length=1, description="the same for the student")
    metrics: str | tuple[str, ...] = Field(default="full", description="names, or the name of a list of them")
    noise_seed: int = Field(default=0, ge=0, lt=2**63, description="of the sampler's starting noise")
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="number format of the networks")
    shown: int = Field(default=8, ge=1, le=64, description="images kept to look at")
    photographs: int = Field(default=8, ge=1, le=64, description="held-out images that are also decoded whole")
    photograph_side: int = Field(default=512, ge=64, le=MOST_SIDE, description="their long side at most, pixels")

    @property
    def pretrained_networks(self) -> tuple[str, ...]:
        """The pretrained networks that the metrics use."""
        return _networks_of(self.metrics)


def _networks_of(metrics: str | tuple[str, ...]) -> tuple[str, ...]:
    from ssdd_metrics import networks_of  # imports torch, which commands that only read parameters do without

    return networks_of(metrics)
