"""The parameters of the comparison, typed: the decoders trained for it, and what is measured of all rows."""

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ssdd.parameters import MOST_BATCH, MOST_SIDE, MOST_STEPS, Frozen, GanConfig, LossWeights, StageParameters
from ssdd.runs import check_run_name

MODEL_FILES = ("finetuned.safetensors", "distilled.safetensors")  # of another run


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

    extends: ClassVar[tuple[str, ...]] = ()  # the epochs before and after the adversary joins follow from their number

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

    enabled: bool = Field(default=True, description="whether the comparison has this row")
    start: float = Field(default=0.5, gt=0, lt=1, description="share of the epochs before it joins, whole epochs")
    adaptive: bool = Field(default=True, description="scale the term so that its gradient is as large as the others'")
    generator_weight: float = Field(default=0.5, ge=0, description="weight of the term, after that scaling")
    discriminator_weight: float = Field(default=1.0, gt=0, description="factor of the discriminator's own loss")
    lr: float = Field(default=1e-4, gt=0, description="learning rate of the discriminator")
    channels: int = Field(default=64, ge=32, le=1024, multiple_of=32, description="of the discriminator's first layer")

    @property
    def gan(self) -> GanConfig:
        """The adversary of a training in which it takes part from the first step."""
        shared = self.model_dump(include={"generator_weight", "discriminator_weight", "lr", "channels"})
        return GanConfig(enabled=True, start_step=0, **shared)


class TokenizerSource(Frozen):
    """Another project's tokenizer, as the comparison takes it."""

    source: str = Field(description="folder of a diffusers autoencoder, or a hub id")
    state: str = Field(default="", description="names, sizes and times of the folder's files; filled in")

    @model_validator(mode="after")
    def _follows_its_files(self) -> "TokenizerSource":
        # Part of the parameter's value, so that a folder with other files makes its row stale.
        object.__setattr__(self, "state", _state_of(Path(self.source).expanduser(), ("*.json", "*.safetensors")))
        return self


class RunSource(Frozen):
    """Another run of this project, whose decoders become rows."""

    run: str
    state: str = Field(default="", description="names, sizes and times of its models; filled in")

    @model_validator(mode="after")
    def _follows_its_files(self) -> "RunSource":
        object.__setattr__(self, "state", _state_of(Path("data") / check_run_name(self.run) / "models", MODEL_FILES))
        return self


class CompareParameters(Frozen):
    """Rows beside those of this run; in text, such as on the command line, several are separated by semicolons."""

    tokenizers: tuple[TokenizerSource, ...] = Field(default=(), description="folders or hub ids of diffusers")
    runs: tuple[RunSource, ...] = Field(default=(), description="names of runs; for sizes, with one encoder")

    @field_validator("tokenizers", "runs", mode="before")
    @classmethod
    def _from_text(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(";") if part.strip()]
        key = "source" if info.field_name == "tokenizers" else "run"
        return tuple({key: str(item)} if isinstance(item, str | int) else item for item in value or ())


class SpeedParameters(Frozen):
    """Timing of all rows of the comparison, alternated in one process, and of the training steps."""

    pixels: tuple[int, ...] = Field(default=(256, 512), description="sides beside that of the evaluation")
    rounds: int = Field(default=5, ge=1, le=1000, description="timings of each row")
    batch_size: int = Field(default=1, ge=1, le=MOST_BATCH, description="images decoded at a time")
    threads: int | None = Field(default=None, ge=1, description="CPU threads; all cores by default")


class RobustnessParameters(Frozen):
    """The measured curve of quality against noise on the latents."""

    levels: tuple[Annotated[float, Field(ge=0, le=10)], ...] = Field(
        default=(0.0, 0.1, 0.2, 0.4, 0.8), min_length=1, description="of the noise, in deviations of each channel"
    )

    @field_validator("levels")
    @classmethod
    def _ascends(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if list(levels) != sorted(set(levels)):
            raise ValueError(f"expected levels in ascending order, each once, got {levels}")
        return levels


class GridParameters(Frozen):
    """The figure of crops where the decoders differ most."""

    images: int = Field(default=6, ge=1, le=64, description="rows, each of another photograph")
    crop: int = Field(default=48, ge=8, le=MOST_SIDE, description="side of a crop, pixels")


def _state_of(folder: Path, patterns: tuple[str, ...]) -> str:
    """Returns names, sizes and times of files; empty where there is no such folder, such as for a hub id."""
    files = sorted({file for pattern in patterns for file in folder.rglob(pattern)}) if folder.is_dir() else []
    facts = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest() if facts else ""
