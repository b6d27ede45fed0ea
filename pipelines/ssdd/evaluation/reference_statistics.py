"""Statistics of the held-out images themselves, computed once and shared by every Frechet distance to them."""

import operator
from collections.abc import Sequence
from functools import reduce
from itertools import chain
from pathlib import Path

from ssdd.data.decoding import decoding_libraries
from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.data.transforms import EvalTransform
from ssdd.evaluation.pretrained_networks import load_networks
from ssdd.parameters import PretrainedNetworks, RuntimeConfig
from ssdd.processes import choose_device, gather, is_main, join_group, launch, use_threads
from ssdd_metrics import Protocol, ReferenceStatistics, compute_references, networks_of, save_references

Metrics = str | Sequence[str]


def image_protocol(dataset: ImageDataset, im_size: int) -> Protocol:
    """Returns the protocol of held-out images, before any model: their content by hash, and their preparation."""
    return Protocol(
        dataset=f"{type(dataset.source).__name__}, validation, sha256:{dataset.content}",
        decoding=decoding_libraries(),
        resolution=f"{im_size}x{im_size}",
        resize=f"{EvalTransform.resize_filter}, Pillow",
        crop=EvalTransform.crop,
    )


def write_references(
    file: Path,
    dataset: ImageDataset,
    im_size: int,
    batch_size: int,
    metrics: Metrics,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> Path:
    """Runs the images through the networks of the Frechet metrics, and writes the statistics of the features.

    Args:
        file: the safetensors file to write; empty if no metric is a Frechet distance.
        dataset: images with an `EvalTransform`.
        im_size: of that.
        batch_size: images at a time per process.
        metrics: see `MetricSuite`.
        pretrained_networks: the pretrained networks.
        runtime: device, processes, threads.

    Raises:
        NetworkUnavailable: a network's weights are missing; the message says where to put them.
    """
    use_threads(runtime)
    arguments = (dataset, im_size, batch_size, metrics, pretrained_networks, runtime)
    found = launch(_compute, runtime.processes, *arguments)
    if is_main():
        save_references(file, found)
    return file


def _compute(
    dataset: ImageDataset,
    im_size: int,
    batch_size: int,
    metrics: Metrics,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> dict[str, ReferenceStatistics]:
    rank, processes = join_group()
    show = runtime.display if rank == 0 else False
    share = batches(dataset, batch_size, runtime.workers, rank, processes, "reference statistics", show)
    images = ((batch["image"] + 1) / 2 for batch in share)
    protocol, networks = image_protocol(dataset, im_size), load_networks(networks_of(metrics), pretrained_networks)
    found: dict[str, ReferenceStatistics] = {}
    if (first := next(images, None)) is not None:  # with more processes than images some have none
        found = compute_references(
            chain([first], images), metrics, protocol, networks, choose_device(runtime.device, rank)
        )
    parts = gather({name: statistics.cpu() for name, statistics in found.items()})
    # In the order of ranks, and not as they arrive: float64 sums in another order differ in their last digit.
    names = {name for part in parts for name in part}
    return {name: reduce(operator.add, (part[name] for part in parts if name in part)) for name in names}
