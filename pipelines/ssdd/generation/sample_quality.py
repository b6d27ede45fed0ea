"""The quality of samples: the Frechet distances of the evaluation, and precision and recall.

The statistics of the held-out images are those of rFID. A distance of generated images over Inception is called gFID;
the others keep their names, so that nobody takes them for it.
"""

# N images, D features, H W pixels

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.evaluation.pretrained_networks import load_networks
from ssdd.evaluation.reference_statistics import image_protocol
from ssdd.generation.latent_dataset import LatentDataset
from ssdd.generation.sample_shards import read_shards
from ssdd.parameters import PretrainedNetworks
from ssdd_metrics import (
    Moments,
    PrecisionRecall,
    ReferenceStatistics,
    frechet_distance,
    load_references,
    networks_of,
    precision_recall,
    reference_protocols,
    to_uint8,
)
from ssdd_metrics.manifolds import NEIGHBOURS
from ssdd_metrics.precision import strict_float32
from ssdd_metrics.pretrained import get_network, network_input
from ssdd_metrics.registry import METRICS, metric_names

GFID = "gfid"  # the name of `rfid` where the images are generated


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The images that samples are measured against.

    Args:
        references: statistics of the held-out images, by metric.
        networks: of these metrics, by metric.
        names: of the networks, by metric.
        held_out: features (N, D) of the held-out images, by metric.
    """

    references: Mapping[str, ReferenceStatistics]
    networks: Mapping[str, nn.Module]
    names: Mapping[str, str]
    held_out: Mapping[str, Tensor]


def frechet_metrics(metrics: Any) -> list[str]:
    """Returns the metrics among some that compare sets of images by a network's features."""
    return [name for name in metric_names(metrics) if METRICS[name].kind == "frechet"]


def column_of(metric: str) -> str:
    """Returns the column of a metric in the table of samples."""
    return GFID if metric == "rfid" else metric


def judged_against(
    dataset: ImageDataset,
    references: Path,
    im_size: int,
    metrics: Any,
    pretrained_networks: PretrainedNetworks,
    device: torch.device,
    workers: int = 0,
) -> Judged:
    """Loads networks and reference statistics, and computes the features of the held-out images.

    Args:
        dataset: held-out images with an `EvalTransform`.
        references: statistics of the same images, see `write_references`.
        im_size: side of the images, pixels.
        metrics: names, or the name of a list of them; those that are no Frechet distance are passed over.
        pretrained_networks: the pretrained networks.
        device: of the networks.
        workers: loader processes.

    Raises:
        ValueError: no metric is a Frechet distance, or the statistics are of other images.
    """
    names = frechet_metrics(metrics)
    if not names:
        raise ValueError(
            f"expected a Frechet distance among evaluate.metrics, got {metrics}: generated images have no originals to "
            "be compared with; add frechet_random_conv"
        )
    loaded = load_networks(networks_of(names), pretrained_networks)
    protocols = reference_protocols(names, image_protocol(dataset, im_size), loaded)
    known = {name: METRICS[name].network for name in names}
    networks = {name: get_network(known[name], loaded).to(device) for name in names}
    judged = Judged(references=load_references(references, protocols), networks=networks, names=known, held_out={})
    images = ((batch["image"] + 1) / 2 for batch in batches(dataset, 32, workers))
    held_out = features_of((to_uint8(part) for part in images), judged, device)
    return Judged(references=judged.references, networks=networks, names=known, held_out=held_out)


def measure(images: Iterable[Tensor], judged: Judged, device: torch.device) -> dict[str, Any]:
    """Measures a set of images.

    Args:
        images: batches of uint8 (B, 3, H, W).
        judged: see `judged_against`.
        device: of the networks.

    Returns:
        `images`, their number; the distance of each metric; and, by the last metric's network, `precision`, `recall`,
        `features` (its name). Precision and recall compare as many images of either side as the smaller one has; of
        three or fewer they are NaN.
    """
    found = features_of(images, judged, device)
    row: dict[str, Any] = {"images": len(next(iter(found.values())))}
    for metric, features in found.items():
        row[column_of(metric)] = frechet_distance(judged.references[metric].moments, Moments.of(features))
    last = list(found)[-1]
    count = min(len(found[last]), len(judged.held_out[last]))
    shares = PrecisionRecall(math.nan, math.nan)
    if count > NEIGHBOURS:
        shares = precision_recall(judged.held_out[last][:count], found[last][:count])
    return row | {"precision": shares.precision, "recall": shares.recall, "features": judged.names[last]}


@torch.no_grad()
def features_of(images: Iterable[Tensor], judged: Judged, device: torch.device) -> dict[str, Tensor]:
    """Returns the features (N, D) of images, on the CPU, by metric."""
    parts: dict[str, list[Tensor]] = {name: [] for name in judged.networks}
    for batch in images:
        with strict_float32(device):
            for metric, network in judged.networks.items():
                features = network(network_input(judged.names[metric], batch.to(device)))
                parts[metric].append(features.float().cpu())
    return {metric: torch.cat(some) for metric, some in parts.items()}


def in_batches(images: Iterable[Tensor], size: int = 32) -> Iterator[Tensor]:
    """Cuts the tensors of shards into batches."""
    for part in images:
        yield from part.split(size)


def measure_files(
    folder: Path, name: str, judged: Judged, device: torch.device, labels: frozenset[int]
) -> dict[str, Any]:
    """Measures the images of shards, see `measure`: those of the held-out images' classes, and those without a class.

    Raises:
        ValueError: no image is left.
    """
    kept = [part["image"][_kept(part["label"], labels)] for part in read_shards(folder, name)]
    if not any(map(len, kept)):
        raise ValueError(
            f"expected samples of the classes {sorted(labels)}, which the held-out images have, got none in {folder}: "
            "change generate.classes or generate.count"
        )
    return measure(in_batches(kept), judged, device)


def held_out_labels(latents: Path) -> frozenset[int]:
    """Returns the classes of the held-out images, -1 among them where some have none."""
    held_out = LatentDataset(latents, split="validation")
    return frozenset(held_out[number]["label"] for number in range(len(held_out)))


def _kept(own: Tensor, labels: frozenset[int]) -> Tensor:
    return torch.isin(own, torch.tensor(sorted(labels | {-1})))
