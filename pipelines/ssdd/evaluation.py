"""Judging models on held-out images: the same numbers for one process or many, and for any batch size."""

# B batch, N images, S side in pixels

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.data import EvalTransform, ImageDataset, StepSampler, make_loader
from ssdd.devices import device_of, use_threads
from ssdd.files import sha256_file
from ssdd.judges import load_judges
from ssdd.parameters import EvaluateParameters, JudgeFiles, RuntimeConfig
from ssdd.progress import bar
from ssdd.training.keyed import keys, normal
from ssdd.training.launch import launch
from ssdd_metrics import MetricSuite, Protocol, extremes, to_uint8

EXTREMES = 4


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One model with one number of steps.

    Args:
        steps: of the sampler.
        report: numbers, intervals and protocol, see `MetricSuite.report`.
        per_image: columns by name, one row per image.
        pictures: uint8 (n, 3, S, S) by name: `shown`, `best`, `worst`, with `<name>_input` and `<name>_index`.
    """

    steps: int
    report: dict[str, Any]
    per_image: dict[str, np.ndarray]
    pictures: dict[str, Tensor]


def evaluate(
    checkpoint: Path,
    dataset: ImageDataset,
    steps: Sequence[int],
    parameters: EvaluateParameters,
    judges: JudgeFiles,
    runtime: RuntimeConfig,
    title: str,
) -> list[Evaluated]:
    """Reconstructs every image with each number of steps, and compares.

    Args:
        checkpoint: of encoder and decoder.
        dataset: images with an `EvalTransform`.
        steps: numbers of sampler steps.
        parameters: see there; the noise of an image depends on `noise_seed` and its number alone.
        judges: the pretrained networks of the metrics.
        runtime: see there.
        title: what the progress bar says.

    Raises:
        CheckpointError: the checkpoint is damaged.
        JudgeUnavailable: a metric's network is not there; the message says where to put it.
    """
    use_threads(runtime)
    return launch(_evaluate, runtime.processes, checkpoint, dataset, list(steps), parameters, judges, runtime, title)


def _evaluate(
    checkpoint: Path,
    dataset: ImageDataset,
    steps: list[int],
    parameters: EvaluateParameters,
    judges: JudgeFiles,
    runtime: RuntimeConfig,
    title: str,
) -> list[Evaluated]:
    rank, world = _join()
    device = device_of(runtime, rank)
    dtype = getattr(torch, parameters.precision)
    model = SSDD.from_pretrained(checkpoint).to(device, dtype).to(memory_format=torch.channels_last)
    sha256 = sha256_file(checkpoint)
    loaded = load_judges(parameters.judges, judges)
    suites = {
        count: MetricSuite(
            parameters.metrics if isinstance(parameters.metrics, str) else list(parameters.metrics),
            protocol_of(dataset, parameters, count, sha256),
            loaded,
            device=device,
        )
        for count in steps
    }
    shown = set(np.linspace(0, len(dataset) - 1, min(parameters.shown, len(dataset))).round().astype(int).tolist())
    kept: dict[tuple[int, int], Tensor] = {}
    for batch in _batches(dataset, parameters, runtime, rank, world, title):
        x, numbers = batch["image"].to(device), batch["index"]
        for count, decoded in _reconstruct(model, x, numbers.tolist(), steps, parameters):
            suites[count].update((x + 1) / 2, (decoded + 1) / 2, numbers)
            kept |= {
                (count, number): to_uint8((decoded[i] + 1) / 2).cpu()
                for i, number in enumerate(numbers.tolist())
                if number in shown
            }
    _collect(suites, kept, rank, world)
    if rank:
        return []
    return [_finish(model, dataset, suites[count], count, sorted(shown), kept, parameters, device) for count in steps]


def protocol_of(dataset: ImageDataset, parameters: EvaluateParameters, steps: int, sha256: str) -> Protocol:
    """States what a number depends on, as far as the evaluation knows it."""
    return Protocol(
        dataset=f"{dataset.source!r}, validation",
        resolution=f"{parameters.im_size}x{parameters.im_size}",
        resize=f"{EvalTransform.resize_filter}, Pillow",
        crop=EvalTransform.crop,
        noise_seed=parameters.noise_seed,
        steps=steps,
        dtype=parameters.precision,
        model=f"sha256:{sha256}",
    )


def image_noise(seed: int, images: Sequence[int], shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """The starting noise of each image: (B, 3, S, S), drawn on the CPU so that it is the same on every device."""
    return normal([key for image in images for key in keys(seed, "evaluation", 0, [image])], shape).to(device)


@torch.no_grad()
def _reconstruct(
    model: SSDD, x: Tensor, numbers: list[int], steps: Sequence[int], parameters: EvaluateParameters
) -> Iterator[tuple[int, Tensor]]:
    z = model.encode(x).mode()
    noise = image_noise(parameters.noise_seed, numbers, (3, *x.shape[2:]), x.device)
    for count in steps:
        yield count, model.decode(z, steps=count, noise=noise, check_finite=True).float()


def _batches(
    dataset: ImageDataset, parameters: EvaluateParameters, runtime: RuntimeConfig, rank: int, world: int, title: str
) -> Iterator[dict[str, Any]]:
    sampler = StepSampler(
        len(dataset), parameters.batch_size * world, shuffle=False, drop_last=False, rank=rank, world_size=world
    )
    loader = make_loader(dataset, sampler, workers=runtime.workers)
    with bar(title, len(dataset), show=runtime.progress and rank == 0) as advance:
        for batch in loader:
            yield batch
            advance(len(batch["index"]) * world)


def _finish(
    model: SSDD,
    dataset: ImageDataset,
    suite: MetricSuite,
    steps: int,
    shown: list[int],
    kept: dict[tuple[int, int], Tensor],
    parameters: EvaluateParameters,
    device: torch.device,
) -> Evaluated:
    table = suite.per_image()
    best, worst = extremes(table, "psnr" if "psnr" in table else list(table)[1], EXTREMES)
    pictures = _with_inputs(dataset, "shown", shown, torch.stack([kept[steps, number] for number in shown]))
    for name, numbers in (("best", best.tolist()), ("worst", worst.tolist())):
        x = torch.stack([dataset[number]["image"] for number in numbers]).to(device)
        _, decoded = next(_reconstruct(model, x, numbers, [steps], parameters))
        pictures |= _with_inputs(dataset, name, numbers, to_uint8((decoded + 1) / 2).cpu())
    return Evaluated(steps=steps, report=suite.report(), per_image=table, pictures=pictures)


def _with_inputs(dataset: ImageDataset, name: str, numbers: list[int], decoded: Tensor) -> dict[str, Tensor]:
    inputs = torch.stack([to_uint8((dataset[number]["image"] + 1) / 2) for number in numbers])
    return {name: decoded, f"{name}_input": inputs, f"{name}_index": torch.tensor(numbers)}


def _collect(suites: dict[int, MetricSuite], kept: dict[tuple[int, int], Tensor], rank: int, world: int) -> None:
    """Brings what the other processes saw to rank 0."""
    if world == 1:
        return
    mine = ({count: {k: v.cpu() for k, v in suite.state().items()} for count, suite in suites.items()}, kept)
    gathered: list[Any] | None = [None] * world if rank == 0 else None
    torch.distributed.gather_object(mine, gathered)
    for states, pictures in (gathered or [])[1:]:
        kept |= pictures
        for count, state in states.items():
            suites[count].merge(state)


def _join() -> tuple[int, int]:
    """Joins the group of processes that launched this one, if any: (rank, processes)."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return (torch.distributed.get_rank(), world) if world > 1 else (0, 1)
