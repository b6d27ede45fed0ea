"""What produced a number: everything another laboratory needs in order to compute it again."""

import dataclasses
import importlib.metadata
import json
from dataclasses import dataclass, field
from typing import Any

from ssdd_metrics.images import ROUNDING

PACKAGES = (
    "ssdd-metrics",
    "torch",
    "torchmetrics",
    "numpy",
    "pillow",
    "torch-fidelity",
    "lpips",
    "timm",
    "torchvision",
)


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a set of numbers came about.

    The caller states what only the caller knows (the first group); a suite fills in the rest.

    Args:
        dataset: name and split, such as "imagenet-val".
        decoding: what made pixels of the image files, with versions, such as "Pillow 11.3.0, libjpeg-turbo 3.1.1".
        resolution: "height x width" of the images compared, such as "256x256".
        resize: filter and library that brought them there, such as "bilinear, antialias, torchvision";
            "none".
        crop: such as "centre".
        noise_seed: of the decoder's noise.
        steps: of the decoder's sampler.
        dtype: that the model computed in.
        model: which checkpoint.
        rounding: of both sides before anything is measured.
        images: how many pairs were compared.
        metrics: their names.
        weights: SHA-256 of each pretrained network's weight file, by the pretrained network's name.
        versions: of the packages that numbers depend on.
    """

    dataset: str = "not stated"
    decoding: str = "not stated"
    resolution: str = "not stated"
    resize: str = "not stated"
    crop: str = "not stated"
    noise_seed: int | None = None
    steps: int | None = None
    dtype: str = "not stated"
    model: str = "not stated"
    rounding: str = ROUNDING
    images: int = 0
    metrics: tuple[str, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=_versions)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON and YAML."""
        return {**dataclasses.asdict(self), "metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Protocol":
        """The inverse of `to_dict`."""
        return cls(**{**values, "metrics": tuple(values["metrics"])})

    def reference_side(self, network: str, sha256: str) -> dict[str, str]:
        """What statistics of the reference images alone depend on, for the given pretrained network.

        `decoding` is among it, versions and all: `dataset` names files, and another JPEG decoder or another release of
        a resize filter makes other pixels of the same files. The versions of torch and the like are not: the same
        pixels then give the same features but for rounding.
        """
        return {
            "dataset": self.dataset,
            "decoding": self.decoding,
            "resolution": self.resolution,
            "resize": self.resize,
            "crop": self.crop,
            "rounding": self.rounding,
            "pretrained network": network,
            "weights_sha256": sha256,
        }

    def __str__(self) -> str:
        """One `name: value` a line."""
        return "\n".join(
            f"{name}: {json.dumps(value) if isinstance(value, dict) else value}"
            for name, value in self.to_dict().items()
        )
