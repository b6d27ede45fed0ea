"""The metric networks by name: how each is found, checked, loaded and fed.

Legend: B batch, D features, H W pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from ssdd_metrics.dreamsim import find_dreamsim, load_dreamsim
from ssdd_metrics.efficientnet import EXTRA, find_efficientnet, load_efficientnet, packaged_weights
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
from ssdd_metrics.weights import ALEXNET, INCEPTION, VGG16, cached_weights, dinov2_file, find_weights

# It has no weight file, so it is not in NETWORKS: nothing is to be found, downloaded or checked for it.
RANDOM_CONV = "random_conv"


@dataclass(frozen=True)
class PretrainedNetwork:
    """The functions and facts of one pretrained network.

    Args:
        extra: of this package, with the libraries that build the network.
        module: of these libraries; its import shows whether the extra is installed.
        find: takes a path and a SHA-256 (None for the defaults), returns the checked weight file.
        load: takes the same two, returns the network.
        held: returns the weight file that `find` would take on this machine, unchecked; None if there is none.
        place: of the weights if no path is passed: "cache", the usual cache or a download; "package", a package of the
            extra; "path", none, so that a path is required.
        takes_unit: the images are floats in [0, 1]; False: uint8.
    """

    extra: str
    module: str
    find: Callable[[PathLike | None, str | None], Path]
    load: Callable[[PathLike | None, str | None], MetricNetwork]
    held: Callable[[], Path | None]
    place: Literal["cache", "package", "path"] = "cache"
    takes_unit: bool = True


def _find_dreamsim_adapter(path: PathLike | None, sha256: str | None) -> Path:
    # DreamSim is six files. The adapter is the one that is DreamSim's own; the others are its trunks.
    return find_dreamsim(path, sha256)["ensemble_lora/adapter_model.*"]


NETWORKS: dict[str, PretrainedNetwork] = {
    # Takes 8-bit images, because FID's resize is part of the network and defined on them.
    "inception": PretrainedNetwork(
        "fid",
        "torch_fidelity.feature_extractor_inceptionv3",
        find=partial(find_weights, INCEPTION),
        load=load_inception,
        held=partial(cached_weights, INCEPTION),
        takes_unit=False,
    ),
    "lpips_alex": PretrainedNetwork(
        "perceptual",
        "lpips",
        find=partial(find_weights, ALEXNET),
        load=partial(load_lpips, "alex"),
        held=partial(cached_weights, ALEXNET),
    ),
    "lpips_vgg": PretrainedNetwork(
        "perceptual",
        "lpips",
        find=partial(find_weights, VGG16),
        load=partial(load_lpips, "vgg"),
        held=partial(cached_weights, VGG16),
    ),
    "dinov2": PretrainedNetwork(
        "perceptual",
        "timm",
        find=partial(find_weights, dinov2_file(DINOV2_BASE)),
        load=load_dinov2,
        held=partial(cached_weights, dinov2_file(DINOV2_BASE)),
    ),
    "dreamsim": PretrainedNetwork(
        "dreamsim",
        "dreamsim",
        find=_find_dreamsim_adapter,
        load=load_dreamsim,
        held=lambda: None,
        place="path",
    ),
    "efficientnet": PretrainedNetwork(
        EXTRA, "timm", find_efficientnet, load_efficientnet, held=packaged_weights, place="package"
    ),
}


def find_network(name: str, path: PathLike | None = None, sha256: str | None = None) -> Path:
    """Finds, or else downloads, a pretrained network's weights and checks them, without building the network.

    Meant for the start of a long run: `load_network` with the same arguments then succeeds at its end.

    Args:
        name: one of `NETWORKS`.
        path, sha256: see the network's loader.

    Returns:
        The weight file; for DreamSim, the file of its adapter.

    Raises:
        NetworkUnavailable, ValueError: see the network's loader.
        ImportError: a library that the network needs is not installed.
    """
    network = _entry(name)
    # Building would need the library, so a missing one must be reported now and not hours later.
    optional_module(network.module, network.extra)
    return network.find(path, sha256)


def load_network(name: str, path: PathLike | None = None, sha256: str | None = None) -> MetricNetwork:
    """Loads a pretrained network by name, with its loader's defaults.

    Args:
        name: one of `NETWORKS`.
        path, sha256: see the network's loader.

    Raises:
        NetworkUnavailable, ValueError: see the network's loader.
    """
    return _entry(name).load(path, sha256)


def get_network(name: str, loaded: Mapping[str, nn.Module]) -> nn.Module:
    """Returns the network of that name from `loaded`, or else loads it from the usual cache.

    Raises:
        ValueError: it is not among the loaded ones and cannot be found.
    """
    if name in loaded:
        return loaded[name]
    return RandomConvFeatures() if name == RANDOM_CONV else load_network(name)


def network_input(name: str, images: Tensor) -> Tensor:
    """Converts uint8 images (B, 3, H, W) into the form that the network of that name takes."""
    return to_unit(images) if name in NETWORKS and NETWORKS[name].takes_unit else images


def identity(name: str, network: nn.Module) -> tuple[str, str]:
    """Returns a network's name and its weights' SHA-256, for protocols."""
    # A caller's own network may have neither; its name in the suite is used then.
    return str(getattr(network, "name", name)), str(getattr(network, "sha256", "not stated"))


def _entry(name: str) -> PretrainedNetwork:
    if name not in NETWORKS:
        raise ValueError(f"expected one of the pretrained networks {list(NETWORKS)}, got {name!r}")
    return NETWORKS[name]
