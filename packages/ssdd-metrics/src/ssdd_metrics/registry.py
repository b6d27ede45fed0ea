"""The metrics by name, the sets of them, and the pretrained networks they ask."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from ssdd_metrics import pixelwise, ssim
from ssdd_metrics.dreamsim import find_dreamsim, load_dreamsim
from ssdd_metrics.images import to_unit
from ssdd_metrics.networks import (
    DINOV2_BASE,
    MetricNetwork,
    PathLike,
    load_dinov2,
    load_inception,
    load_lpips,
    optional_module,
)
from ssdd_metrics.random_conv import RandomConvFeatures
from ssdd_metrics.weights import ALEXNET, INCEPTION, VGG16, dinov2_file, find_weights

PIXEL_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": pixelwise.mse,
    "mae": pixelwise.mae,
    "psnr": pixelwise.psnr,
    "ssim_gaussian": ssim.ssim_gaussian,
    "ssim_uniform": ssim.ssim_uniform,
    "gradient_energy_ratio": pixelwise.gradient_energy_ratio,
}
# metric: the pretrained network it asks
PAIR_NETWORKS = {"lpips_alex": "lpips_alex", "lpips_vgg": "lpips_vgg", "dreamsim": "dreamsim"}
FRECHET_NETWORKS = {"frechet_random_conv": "random_conv", "rfid": "inception", "fdd": "dinov2"}
CAN_BE_INFINITE = ("psnr", "gradient_energy_ratio")

OFFLINE = (*PIXEL_METRICS, "swd", "frechet_random_conv")
FULL = (*OFFLINE, "lpips_alex", "lpips_vgg", "rfid", "fdd")
SETS = {"offline": OFFLINE, "full": FULL}
KNOWN = (*FULL, "dreamsim")

# the pretrained networks by name, and the extra and the module that each needs
NETWORKS = {
    "inception": ("fid", "torch_fidelity.feature_extractor_inceptionv3"),
    "lpips_alex": ("perceptual", "lpips"),
    "lpips_vgg": ("perceptual", "lpips"),
    "dinov2": ("perceptual", "timm"),
    "dreamsim": ("dreamsim", "dreamsim"),
}


def metric_names(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """Expands "offline" and "full", and checks names.

    Raises:
        ValueError: an unknown name, none, or one twice.
    """
    if isinstance(metrics, str):
        metrics = SETS.get(metrics, (metrics,))
    for name in metrics:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, [*KNOWN, *SETS], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join((*SETS, *KNOWN))}"
            raise ValueError(f"there is no metric {name!r}; {hint}")
    if not metrics or len(set(metrics)) != len(metrics):
        raise ValueError(f'expected "offline", "full" or distinct names of metrics, got {list(metrics)}')
    return tuple(metrics)


def networks_of(metrics: str | Sequence[str]) -> tuple[str, ...]:
    """The pretrained networks that metrics ask, by the names of `load_network`; none for "offline".

    Raises:
        ValueError: see `metric_names`.
    """
    asked = PAIR_NETWORKS | FRECHET_NETWORKS
    return tuple(asked[name] for name in metric_names(metrics) if asked.get(name) in NETWORKS)


def find_network(name: str, path: PathLike | None = None, sha256: str | None = None) -> Path:
    """Finds, or else downloads, a pretrained network's weights and checks them, without building the network.

    For the start of a long run: what this accepts, `load_network` finds again when it is needed.

    Args:
        name: one of `NETWORKS`.
        path: see the pretrained network's loader.
        sha256: see the pretrained network's loader.

    Returns:
        the weight file; of DreamSim, its adapter's.

    Raises:
        NetworkUnavailable, ValueError: see the pretrained network's loader.
        ImportError: a package that the pretrained network needs is not installed.
    """
    _check_name(name)
    extra, module = NETWORKS[name]
    optional_module(module, extra)
    if name == "dreamsim":
        return find_dreamsim(path, sha256)["ensemble_lora/adapter_model.*"]
    files = {"inception": INCEPTION, "lpips_alex": ALEXNET, "lpips_vgg": VGG16, "dinov2": dinov2_file(DINOV2_BASE)}
    return find_weights(files[name], path, sha256)


def load_network(name: str, path: PathLike | None = None, sha256: str | None = None) -> MetricNetwork:
    """Loads a pretrained network by name, with its loader's defaults.

    Args:
        name: one of `NETWORKS`.
        path: see the pretrained network's loader.
        sha256: see the pretrained network's loader.

    Raises:
        NetworkUnavailable, ValueError: see the pretrained network's loader.
    """
    _check_name(name)
    if name == "inception":
        return load_inception(path, sha256)
    if name == "dinov2":
        return load_dinov2(path, sha256)
    if name == "dreamsim":
        return load_dreamsim(path, sha256)
    return load_lpips("vgg" if name == "lpips_vgg" else "alex", path, sha256)


def frechet_features(metric: str, network: nn.Module, images: Tensor) -> Tensor:
    """Features (B, D) that a Frechet metric compares, of uint8 images (B, 3, H, W).

    DINOv2 takes floats; Inception and the random network ask for, or take, the 8-bit images themselves.
    """
    return network(to_unit(images) if metric == "fdd" else images)


def identity(name: str, network: nn.Module) -> tuple[str, str]:
    """A pretrained network's name and its weights' SHA-256, for protocols."""
    return str(getattr(network, "name", name)), str(getattr(network, "sha256", "drawn from a fixed seed"))


def get_network(name: str, given: Mapping[str, nn.Module]) -> nn.Module:
    """The given pretrained network of that name, or else the one loaded from the usual cache.

    Raises:
        ValueError: it is not given, and there is no usual cache for it.
    """
    if name in given:
        return given[name]
    return RandomConvFeatures() if name == "random_conv" else load_network(name)


def _check_name(name: str) -> None:
    if name not in NETWORKS:
        raise ValueError(f"expected one of the pretrained networks {list(NETWORKS)}, got {name!r}")
