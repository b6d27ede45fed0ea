"""The protocol of a number: everything that another laboratory needs in order to compute it again."""

import dataclasses
import importlib.metadata
import json
from dataclasses import dataclass, field
from typing import Any

from ssdd_metrics.images import ROUNDING

# A release of any of these has moved, or may move, the last digits of a metric.
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
            continue  # an extra that this installation lacks cannot have changed the number
    return found


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The origin of a set of numbers.

    Only the caller knows the first group, up to `model`; a suite fills in the rest.

    Args:
        dataset: name and split, such as "imagenet-val".
        decoding: libraries that decoded the image files, such as "Pillow 11.3.0, libjpeg-turbo 3.1.1".
        resolution: "height x width" of the images compared, such as "256x256".
        resize: filter and library of the resize, such as "bilinear, antialias, torchvision", or "none".
        crop: such as "centre".
        noise_seed: of the decoder's noise.
        steps: of the decoder's sampler.
        dtype: of the model's computation.
        model: the checkpoint, by name or hash.
        rounding: of both sides before anything is measured.
        images: number of pairs compared.
        metrics: their names.
        weights: SHA-256 of each pretrained network's weight file, by the network's own name.
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
        """Returns plain values, fit for JSON and YAML."""
        return {**dataclasses.asdict(self), "metrics": list(self.metrics)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Protocol":
        """The inverse of `to_dict`."""
        # JSON has no tuples; a list would make two equal protocols differ.
        return cls(**{**values, "metrics": tuple(values["metrics"])})

    def reference_side(self, network: str, sha256: str) -> dict[str, str]:
        """Returns everything that statistics of the reference images depend on, for one metric network.

        `decoding` with its versions belongs to it: `dataset` names files, and another JPEG decoder or another release
        of a resize filter makes other pixels of the same files. The versions of torch and the like do not: the same
        pixels then give the same features but for rounding.

        Args:
            network: its name in protocols.
            sha256: of its weight file.
        """
        return {
            "dataset": self.dataset,
            "decoding": self.decoding,
            "resolution": self.resolution,
            "resize": self.resize,
            "crop": self.crop,
            "rounding": self.rounding,
            "network": network,
            "weights_sha256": sha256,
        }

    def __str__(self) -> str:
        """Returns one `name: value` per line."""
        return "\n".join(
            f"{name}: {json.dumps(value) if isinstance(value, dict) else value}"
            for name, value in self.to_dict().items()
        )
