"""Image reconstruction metrics that say how they were computed.

The import of torchmetrics takes seconds, so names that need it are imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ssdd_metrics.bootstrap import (
    Interval,
    PairedDifference,
    bootstrap_interval,
    compare_tables,
    paired_difference,
)
from ssdd_metrics.dreamsim import load_dreamsim
from ssdd_metrics.images import to_uint8
from ssdd_metrics.manifolds import PrecisionRecall, precision_recall
from ssdd_metrics.moments import Moments, frechet_distance
from ssdd_metrics.networks import load_dinov2, load_inception, load_lpips
from ssdd_metrics.pixelwise import gradient_energy_ratio, mae, mse, psnr
from ssdd_metrics.pretrained import find_network, load_network
from ssdd_metrics.protocol import Protocol
from ssdd_metrics.random_conv import RandomConvFeatures
from ssdd_metrics.reference import (
    ReferenceStatistics,
    compute_references,
    load_references,
    reference_protocols,
    save_references,
)
from ssdd_metrics.registry import networks_of
from ssdd_metrics.ssim import ssim_gaussian, ssim_uniform
from ssdd_metrics.tables import extremes, merge_tables
from ssdd_metrics.weights import NetworkUnavailable, convert_to_safetensors

if TYPE_CHECKING:
    from ssdd_metrics.frechet import FrechetDistance
    from ssdd_metrics.suite import MetricSuite
    from ssdd_metrics.swd import SlicedWasserstein

__all__ = [
    "FrechetDistance",
    "Interval",
    "MetricSuite",
    "Moments",
    "NetworkUnavailable",
    "PairedDifference",
    "PrecisionRecall",
    "Protocol",
    "RandomConvFeatures",
    "ReferenceStatistics",
    "SlicedWasserstein",
    "bootstrap_interval",
    "compare_tables",
    "compute_references",
    "convert_to_safetensors",
    "extremes",
    "find_network",
    "frechet_distance",
    "gradient_energy_ratio",
    "load_dinov2",
    "load_dreamsim",
    "load_inception",
    "load_lpips",
    "load_network",
    "load_references",
    "mae",
    "merge_tables",
    "mse",
    "networks_of",
    "paired_difference",
    "precision_recall",
    "psnr",
    "reference_protocols",
    "save_references",
    "ssim_gaussian",
    "ssim_uniform",
    "to_uint8",
]

_ON_FIRST_USE = {"FrechetDistance": "frechet", "MetricSuite": "suite", "SlicedWasserstein": "swd"}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module(f"{__name__}.{_ON_FIRST_USE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
