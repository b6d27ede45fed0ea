"""The final evaluation of a model on held-out images: one process or many give the same numbers.

They are the same bit for bit, with as many threads in each process, except Frechet distances: their float64 sums have
another order (1e-9). Another batch size changes the last digits, because networks round by the shape of a batch.
"""

# B batch, N images, S side in pixels

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.data.image_dataset import ImageDataset
from ssdd.data.loader import batches
from ssdd.evaluation.passes import reconstruct
from ssdd.evaluation.pretrained_networks import load_networks
from ssdd.evaluation.reference_statistics import image_protocol
from ssdd.files import sha256_file
from ssdd.number_formats import number_format
from ssdd.parameters import EvaluateParameters, PretrainedNetworks, RuntimeConfig
from ssdd.processes import choose_device, gather, join_group, launch, use_threads
from ssdd_metrics import MetricSuite, Protocol, extremes, load_references, reference_protocols, to_uint8

EXTREMES = 4  # pictures of the best and of the worst images

Row = tuple[str, int]
"""A row of the table of figures: its name, empty for the model, and its number of steps, 0 for a reference row."""
Reconstruct = Callable[[Tensor, list[int]], Iterator[tuple[Row, Tensor]]]
"""Images (B, 3, S, S) in [-1, 1] and their numbers -> each row, and its images (B, 3, S, S)."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Result of one row.

    Args:
        steps: of the sampler; 0 for a reference row.
        name: of a reference row; empty for the model.
        report: numbers, intervals and protocol, see `MetricSuite.report`.
        per_image: columns by name, one row per image.
        pictures: uint8 (n, 3, S, S) by name: `shown`, `best`, `worst`, with `<name>_input` and `<name>_index`.
    """

    steps: int
    report: dict[str, Any]
    per_image: dict[str, np.ndarray]
    pictures: dict[str, Tensor]
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The images that reconstructions are measured on, and how: the same for all rows of a table.

    Args:
        dataset: images with an `EvalTransform`.
        parameters: of the evaluation; the noise of an image depends on `noise_seed` and its number alone.
        references: statistics of the same images, see `write_references`.
        pretrained_networks: the pretrained networks of the metrics.
        runtime: device, processes, threads.
    """

    dataset: ImageDataset
    parameters: EvaluateParameters
    references: Path
    pretrained_networks: PretrainedNetworks
    runtime: RuntimeConfig


def evaluate(checkpoint: Path, steps: Sequence[int], measurement: Measurement, title: str) -> list[Evaluated]:
    """Reconstructs every image with each number of steps, and measures the reconstructions.

    Args:
        checkpoint: of encoder and decoder.
        steps: numbers of sampler steps.
        measurement: of the reconstructions.
        title: text before the progress bar.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ValueError: the reference statistics are of other images, or of another network or resolution.
        NetworkUnavailable: a metric's network is missing; the message says where to put it.
    """
    use_threads(measurement.runtime)
    return launch(_evaluate, measurement.runtime.processes, checkpoint, list(steps), measurement, title)


def _evaluate(checkpoint: Path, steps: list[int], measurement: Measurement, title: str) -> list[Evaluated]:
    parameters = measurement.parameters
    rank, _ = join_group()
    device = choose_device(measurement.runtime.device, rank)
    dtype = number_format(parameters.precision, device)
    model = SSDD.from_pretrained(checkpoint).to(device, dtype).to(memory_format=torch.channels_last)
    protocol = dataclasses.replace(
        image_protocol(measurement.dataset, parameters.im_size),
        noise_seed=parameters.noise_seed,
        dtype=parameters.precision,
        model=f"sha256:{sha256_file(checkpoint)}",
    )

    def decode(x: Tensor, numbers: list[int]) -> Iterator[tuple[Row, Tensor]]:
        for count, decoded in reconstruct(model, x, numbers, steps, parameters.noise_seed):
            yield ("", count), decoded

    protocols = {("", count): dataclasses.replace(protocol, steps=count) for count in steps}
    return measure(decode, protocols, measurement, title)


def measure(
    decode: Reconstruct, protocols: dict[Row, Protocol], measurement: Measurement, title: str
) -> list[Evaluated]:
    """Measures the reconstructions of a process's share of the images; rank 0 returns the results of all.

    Args:
        decode: the reconstructions of a batch.
        protocols: of each row.
        measurement, title: see `evaluate`.
    """
    dataset, parameters, runtime = measurement.dataset, measurement.parameters, measurement.runtime
    rank, processes = join_group()
    device = choose_device(runtime.device, rank)
    loaded = load_networks(parameters.pretrained_networks, measurement.pretrained_networks)
    stored = load_references(
        measurement.references, reference_protocols(parameters.metrics, next(iter(protocols.values())), loaded)
    )
    suites = {
        row: MetricSuite(parameters.metrics, protocol, loaded, stored, device) for row, protocol in protocols.items()
    }
    shown = set(np.linspace(0, len(dataset) - 1, min(parameters.shown, len(dataset))).round().astype(int).tolist())
    kept: dict[tuple[Row, int], Tensor] = {}
    show = runtime.display if rank == 0 else False
    for batch in batches(dataset, parameters.batch_size, runtime.workers, rank, processes, title, show):
        x, numbers = batch["image"].to(device), batch["index"]
        for row, decoded in decode(x, numbers.tolist()):
            suites[row].update((x + 1) / 2, (decoded + 1) / 2, numbers)
            kept |= {
                (row, number): to_uint8((decoded[i] + 1) / 2).cpu()
                for i, number in enumerate(numbers.tolist())
                if number in shown
            }
    _collect(suites, kept)  # before any process returns: rank 0 waits for all
    if rank:
        return []
    return [_finish(decode, dataset, suite, row, sorted(shown), kept, device) for row, suite in suites.items()]


def _finish(
    decode: Reconstruct,
    dataset: ImageDataset,
    suite: MetricSuite,
    row: Row,
    shown: list[int],
    kept: dict[tuple[Row, int], Tensor],
    device: torch.device,
) -> Evaluated:
    table = suite.per_image()
    best, worst = extremes(table, "psnr" if "psnr" in table else list(table)[1], EXTREMES)
    pictures = _with_inputs(dataset, "shown", shown, torch.stack([kept[row, number] for number in shown]))
    # The best images are known only now, so they are reconstructed again: all of them would not fit into memory.
    for name, numbers in (("best", best.tolist()), ("worst", worst.tolist())):
        x = torch.stack([dataset[number]["image"] for number in numbers]).to(device)
        decoded = dict(decode(x, numbers))[row]
        pictures |= _with_inputs(dataset, name, numbers, to_uint8((decoded + 1) / 2).cpu())
    name, steps = row
    return Evaluated(steps=steps, name=name, report=suite.report(), per_image=table, pictures=pictures)


def _with_inputs(dataset: ImageDataset, name: str, numbers: list[int], decoded: Tensor) -> dict[str, Tensor]:
    inputs = torch.stack([to_uint8((dataset[number]["image"] + 1) / 2) for number in numbers])
    return {name: decoded, f"{name}_input": inputs, f"{name}_index": torch.tensor(numbers)}


def _collect(suites: dict[Row, MetricSuite], kept: dict[tuple[Row, int], Tensor]) -> None:
    """Brings the measurements and pictures of the other processes to rank 0."""
    mine = ({row: {k: v.cpu() for k, v in suite.state().items()} for row, suite in suites.items()}, kept)
    for states, pictures in gather(mine)[1:]:
        kept |= pictures
        for row, state in states.items():
            suites[row].merge(state)
