"""Reference statistics of Frechet distances: computed once, stored, and tied to their protocol.

Legend: B batch, H W pixels.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ssdd_metrics.files import atomic_write
from ssdd_metrics.images import check_reference_range, to_uint8
from ssdd_metrics.moments import Moments
from ssdd_metrics.precision import strict_float32
from ssdd_metrics.pretrained import get_network, identity, network_input
from ssdd_metrics.protocol import Protocol
from ssdd_metrics.registry import METRICS, metric_names

_PARTS = ("count", "total", "outer")
_HEADER = "reference_protocols"
_FORMAT = 1  # of the file; those of the first releases do not say it


@dataclass(frozen=True)
class ReferenceStatistics:
    """Moments of the reference features, and the protocol that they depend on.

    Args:
        moments: count, sum and sum of outer products of the features.
        protocol: see `reference_protocols`.
    """

    moments: Moments
    protocol: dict[str, str]

    def __add__(self, other: "ReferenceStatistics") -> "ReferenceStatistics":
        """Returns the statistics of two disjoint sets of images together.

        Raises:
            ValueError: the protocols differ.
        """
        # The sum of moments of differently prepared images would give a plausible but wrong distance.
        if self.protocol != other.protocol:
            raise ValueError(f"expected statistics of one protocol, they differ: {_differences(self, other.protocol)}")
        return ReferenceStatistics(self.moments + other.moments, self.protocol)

    def cpu(self) -> "ReferenceStatistics":
        """Returns a copy in main memory."""
        parts = (getattr(self.moments, part).cpu() for part in _PARTS)
        return ReferenceStatistics(Moments(*parts), self.protocol)


def reference_protocols(
    metrics: str | Sequence[str], protocol: Protocol, networks: Mapping[str, nn.Module] | None = None
) -> dict[str, dict[str, str]]:
    """Returns the part of the protocol that each Frechet metric's reference statistics depend on.

    Args:
        metrics: as for `MetricSuite`; those without reference statistics are passed over.
        protocol: of the reference images.
        networks: as for `MetricSuite`.
    """
    found = {}
    for metric, name in _frechet_networks(metrics).items():
        found[metric] = protocol.reference_side(*identity(name, get_network(name, networks or {})))
    return found


def compute_references(
    batches: Iterable[Tensor],
    metrics: str | Sequence[str],
    protocol: Protocol,
    networks: Mapping[str, nn.Module] | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, ReferenceStatistics]:
    """Runs the reference images through the feature networks once, in constant memory.

    Args:
        batches: (B, 3, H, W) images, uint8 or in [0, 1].
        metrics: as for `MetricSuite`; those without reference statistics are passed over.
        protocol: of the images.
        networks: as for `MetricSuite`.
        device: of the networks.

    Returns:
        Statistics by metric, for `save_references` or the argument `references` of `MetricSuite`.

    Raises:
        ValueError: no image at all, or images that `to_uint8` refuses.
    """
    needed = _frechet_networks(metrics)
    if not needed:
        return {}
    loaded = {name: get_network(name, networks or {}).to(device) for name in dict.fromkeys(needed.values())}
    protocols = reference_protocols(list(needed), protocol, loaded)
    found: dict[str, Moments] = {}
    # The inner loop is over metrics: `batches` can be read only once, and decoding is expensive.
    for images in batches:
        check_reference_range(images)
        clean = to_uint8(images.to(device))
        for metric, name in needed.items():
            with torch.no_grad(), strict_float32(clean.device):
                moments = Moments.of(loaded[name](network_input(name, clean)))
            found[metric] = found[metric] + moments if metric in found else moments
    if not found:
        raise ValueError("expected at least one batch of reference images, got none")
    return {metric: ReferenceStatistics(moments, protocols[metric]) for metric, moments in found.items()}


def save_references(path: str | os.PathLike[str], references: Mapping[str, ReferenceStatistics]) -> None:
    """Writes statistics to one safetensors file, whole or not at all, with their protocols in its header."""
    tensors = {}
    for name, statistics in references.items():
        moments = statistics.moments
        for part, tensor in zip(_PARTS, (moments.count.reshape(1), moments.total, moments.outer), strict=True):
            # safetensors refuses views, such as a slice of a larger matrix.
            tensors[f"{name}.{part}"] = tensor.cpu().contiguous()
    # In the same file as the numbers, so that a copied file cannot lose its protocol.
    protocols = {name: statistics.protocol for name, statistics in references.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={_HEADER: json.dumps({"format": _FORMAT, "protocols": protocols})})


def load_references(
    path: str | os.PathLike[str], protocols: Mapping[str, dict[str, str]]
) -> dict[str, ReferenceStatistics]:
    """Reads statistics and refuses those of another protocol.

    Args:
        path: a file of `save_references`.
        protocols: of the present evaluation, by metric, see `reference_protocols`; the file may hold more metrics.

    Raises:
        ValueError: the file does not exist, was not written by `save_references`, lacks a metric, or belongs to
            another protocol. The message names every entry that differs.
    """
    if not Path(path).is_file():
        raise ValueError(f"expected reference statistics at {path}, found no file: compute and save them first")
    found = {}
    try:
        with safe_open(path, "pt") as handle:
            stored = json.loads((handle.metadata() or {})[_HEADER])
            if (layout := stored.get("format", _FORMAT)) != _FORMAT:
                raise ValueError(f"{path} has layout {layout!r}, expected {_FORMAT}: update ssdd-metrics")
            stored = stored.get("protocols", stored)
            for name in stored.keys() & protocols.keys():
                count, total, outer = (handle.get_tensor(f"{name}.{part}") for part in _PARTS)
                found[name] = ReferenceStatistics(Moments(count[0], total, outer), stored[name])
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"expected reference statistics, {path} holds none ({error}): compute them again") from error
    if lacking := sorted(protocols.keys() - found.keys()):
        raise ValueError(f"expected reference statistics of {lacking}, {path} has {sorted(stored)}: compute them again")
    for name, protocol in protocols.items():
        if differences := _differences(found[name], protocol):
            raise ValueError(
                f"the {name} reference statistics of {path} belong to another protocol ({differences}): "
                "compute statistics for this one, or evaluate by the protocol of the file"
            )
    return found


def _frechet_networks(metrics: str | Sequence[str]) -> dict[str, str]:
    """Maps each Frechet metric among the metrics to its network's name."""
    entries = (METRICS[name] for name in metric_names(metrics))
    return {metric.name: metric.network for metric in entries if metric.kind == "frechet"}


def _differences(statistics: ReferenceStatistics, protocol: dict[str, str]) -> str:
    stored = statistics.protocol
    # The keys of both: a file of another release may have entries that this one lacks, or lack some.
    return "; ".join(
        f"{name}: expected {protocol.get(name)!r}, the file has {stored.get(name)!r}"
        for name in sorted(stored.keys() | protocol.keys())
        if stored.get(name) != protocol.get(name)
    )
