"""The parameters of the benchmark, typed: the sizes, resolutions and sides that are measured."""

from typing import Literal

from pydantic import Field

from ssdd.parameters import TEACHER_STEPS, Frozen

Side = Literal[
    "ssdd", "ssdd_compiled", "ssdd_recorded", "dense", "kl", "kl_compiled", "kl_served", "kl_served_recorded"
]
ExportedSide = Literal[
    "eager",
    "eager_bfloat16",
    "compiled",
    "compiled_bfloat16",
    "onnxruntime",
    "onnxruntime_int8",
    "onnxruntime_dynamic",
    "openvino",
    "openvino_bfloat16",
    "openvino_int8",
]
Dtype = Literal["float32", "bfloat16", "float16"]
Size = Literal["debug", "quickstart", "demo", "XS", "S", "B", "M", "L", "XL", "H"]


class DecodeSweep(Frozen):
    """Decoding: every combination of the listed values; the sides of a combination alternate in one process."""

    sizes: tuple[Size, ...] = Field(default=("S",), description="of the decoder")
    pixels: tuple[int, ...] = Field(default=(256,), description="side of the square images")
    batch_sizes: tuple[int, ...] = Field(default=(1,), description="images at a time")
    steps: tuple[int, ...] = Field(default=(1,), description="of the sampler")
    dtypes: tuple[Dtype, ...] = Field(default=("float32",), description="number formats")
    sides: tuple[Side, ...] = Field(default=("ssdd", "dense", "kl"), min_length=1, description="decoders compared")
    rounds: int = Field(default=5, ge=1, description="timings of each side")


class TrainingSweep(Frozen):
    """Training steps: ours against the dense form, checkpointing, distillation live and cached."""

    size: Size = Field(default="S", description="of the decoder")
    dtypes: tuple[Dtype, ...] = Field(default=("float32",), description="number formats")
    pixels: int = Field(default=128, ge=8, description="side of the square images")
    batch_size: int = Field(default=4, ge=1, description="images of a step")
    sides: tuple[Literal["ssdd", "ssdd_compiled", "dense"], ...] = Field(
        default=("ssdd", "dense"), min_length=1, description="networks compared in a step"
    )
    checkpointing_pixels: int = Field(
        default=256, ge=8, description="side of the images, with and without gradient checkpointing"
    )
    checkpointing_batch_size: int = Field(default=1, ge=1, description="images of a step there")
    distillation_pixels: int = Field(default=64, ge=8, description="side of the images of distillation")
    distillation_batch_size: int = Field(default=4, ge=1, description="images of a step there")
    teacher_steps: int = Field(default=TEACHER_STEPS, ge=1, description="Euler steps of the teacher")
    rounds: int = Field(default=5, ge=1, description="timings of each side")


class ScaleSweep(Frozen):
    """Training with one rank and with several: loading alone, steps alone, both."""

    encoder: str = Field(default="f8c4", description="as model.encoder")
    size: Size = Field(default="S", description="of the decoder")
    pixels: int = Field(default=128, ge=8, description="side of the square crops")
    aug_scale: float = Field(default=2.0, ge=1, le=8, description="as in training")
    batch_size: int = Field(default=4, ge=1, description="images of a step, per rank")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="as in training")
    ranks: tuple[int, ...] = Field(default=(1, 2), min_length=1, description="numbers of processes; one GPU each")
    workers: int = Field(default=0, ge=0, description="data loader workers per process")
    steps: int = Field(default=8, ge=1, description="timed, after two more")
    photographs: int = Field(default=128, ge=32, description="that the loader alone reads in a pass")


class ExportedSweep(Frozen):
    """Decoding by exported files, on a CPU: all sides of all decoders alternate in one process."""

    decoders: tuple[Size | Literal["kl"], ...] = Field(
        default=("S", "kl"), min_length=1, description="sizes, and the decoder of the KL autoencoder"
    )
    pixels: tuple[int, ...] = Field(default=(256,), min_length=1, description="side of the square images")
    sides: tuple[ExportedSide, ...] = Field(
        default=("eager", "onnxruntime", "openvino"), min_length=1, description="runtimes and number formats"
    )
    rounds: int = Field(default=5, ge=1, description="timings of each side")


class BenchmarkParameters(Frozen):
    """The benchmark; the device is `runtime.device`."""

    threads: int | None = Field(default=None, ge=1, description="CPU threads; all cores by default")
    decoding: tuple[DecodeSweep, ...] = Field(default=(DecodeSweep(),), description="each entry is measured in turn")
    training: TrainingSweep = TrainingSweep()
    scale: ScaleSweep = ScaleSweep()
    exported: tuple[ExportedSweep, ...] = Field(
        default=(ExportedSweep(),), description="each entry is measured in turn, on a CPU"
    )
    quality_rounds: int = Field(default=5, ge=1, description="of the timing behind the figure of quality and speed")
