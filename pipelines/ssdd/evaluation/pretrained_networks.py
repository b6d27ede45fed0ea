"""The pretrained networks of losses and metrics: found and checked when a run starts, loaded where they are used."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssdd.files import sha256_file
from ssdd.parameters import NetworkFile, PretrainedNetworks
from ssdd_metrics import find_network, load_lpips, load_network
from ssdd_metrics.dreamsim import dreamsim_sha256, find_dreamsim
from ssdd_metrics.networks import MetricNetwork

# No hash of these is published. The hash must then be a parameter: the place of a file is not part of the lineage, and
# another file in the same place would go unnoticed.
UNPUBLISHED = ("dinov2", "dreamsim")


def find_networks(names: Iterable[str], files: PretrainedNetworks) -> dict[str, Path]:
    """Finds, or downloads, the weights of pretrained networks and checks their hashes, without building the networks.

    Args:
        names: of pretrained networks, see `PretrainedNetworks`.
        files: their places and hashes.

    Returns:
        their files.

    Raises:
        ValueError: a file is missing or not the expected one; the message says which file to put where.
    """
    return {name: _call(find_network, name, files) for name in names}


def load_networks(names: Iterable[str], files: PretrainedNetworks) -> dict[str, MetricNetwork]:
    """Loads pretrained networks for a metric suite.

    Raises:
        ValueError: see `find_networks`.
    """
    return {name: _call(load_network, name, files) for name in names}


def load_loss_network(name: str, files: PretrainedNetworks) -> MetricNetwork:
    """Loads a pretrained network for a loss: LPIPS with a gradient that is finite everywhere.

    Raises:
        ValueError: see `find_networks`.
    """
    if name == "lpips_vgg":
        return _call(lambda _, path, sha256: load_lpips("vgg", path, sha256, smooth=True), name, files)
    return _call(load_network, name, files)


def _call(function: Any, name: str, files: PretrainedNetworks) -> Any:
    wanted: NetworkFile = getattr(files, name)
    path = Path(os.path.expanduser(wanted.file)) if wanted.file else None
    try:
        found = function(name, path, wanted.sha256)
        if path is not None and wanted.sha256 is None and name in UNPUBLISHED:
            raise ValueError(
                "expected a SHA-256 next to the file, since none is published: if you mean this one, set "
                f"pretrained_networks.{name}.sha256={_sha256(name, path)}"
            )
        return found
    except (ValueError, ImportError) as error:
        raise ValueError(f"{error} [pretrained_networks.{name}.file, pretrained_networks.{name}.sha256]") from error


def _sha256(name: str, path: Path) -> str:
    return dreamsim_sha256(find_dreamsim(path)) if name == "dreamsim" else sha256_file(path)
