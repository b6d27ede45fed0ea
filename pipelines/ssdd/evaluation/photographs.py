"""Whole held-out photographs through every model and reference row: pictures to look at, with figures for each."""

# H W pixels, F down-scale, C latent channels

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.data.image_dataset import ImageDataset
from ssdd.evaluation.pretrained_networks import load_networks
from ssdd.evaluation.reference_rows import fit_on, reference_codes
from ssdd.imaging.canvas import pad, picture_noise, to_images
from ssdd.parameters import EvaluateParameters, PretrainedNetworks, RuntimeConfig
from ssdd.processes import choose_device, use_threads
from ssdd.progress import bar
from ssdd.upscaling import shrink
from ssdd_metrics import MetricSuite, to_uint8
from ssdd_metrics.registry import METRICS, metric_names

INPUT = "input"
Code = Callable[[Tensor, str], Tensor]
"""A photograph (1, 3, H, W) in [-1, 1] and its name -> its reconstruction, the same shape."""


@torch.no_grad()
def decode_photographs(
    teacher: Path,
    student: Path,
    training: ImageDataset,
    dataset: ImageDataset,
    parameters: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[dict[str, Tensor], pd.DataFrame]:
    """Decodes whole photographs, shrunk to `photograph_side` and never enlarged, and measures each.

    Args:
        teacher, student: checkpoints of encoder and decoder.
        training: images to fit the PCA's reference row of.
        dataset: held-out images; `photographs` of them, spread evenly, are taken whole.
        parameters: of the evaluation; of its metrics, those that one image has, if it is large enough for them. The
            PSNR, by which the rows are compared, is always among them.
        pretrained_networks: of the metrics.
        runtime: device and threads.

    Returns:
        uint8 (3, H, W) by `<number>.<row>`, and a table with a row for each photograph and model.

    Raises:
        BadImage: a photograph cannot be read.
    """
    use_threads(runtime)
    device = choose_device(runtime.device)
    models = {"teacher": _load(teacher, device), "student": _load(student, device)}
    rows = _codes(models, training, parameters, runtime)
    multiple = math.lcm(*(model.decoder.config.downscale for model in models.values()))
    cell = models["student"].decoder.config.patch_size
    canvases = [
        pad(name, _shrunk(dataset.source.open_photograph(name), parameters.photograph_side), multiple)
        for name in choose_photographs(dataset, parameters.photographs)
    ]
    smallest = min(min(canvas.size) for canvas in canvases)
    metrics = [name for name in _metrics(parameters) if METRICS[name].min_side <= smallest]
    networks = load_networks({METRICS[name].network for name in metrics if METRICS[name].network}, pretrained_networks)
    suites = {row: MetricSuite(metrics, None, networks, device=device) for row in rows}

    pictures: dict[str, Tensor] = {}
    facts: list[dict[str, Any]] = []
    with bar("whole photographs", len(canvases) * len(rows), show=runtime.display) as advance:
        for number, canvas in enumerate(canvases):
            height, width = canvas.size
            x = to_images([canvas], device)
            clean = pictures[f"{number}.{INPUT}"] = _levels(x)[:, :height, :width]
            for row, code in rows.items():
                decoded = pictures[f"{number}.{row}"] = _levels(code(x, canvas.name))[:, :height, :width]
                suites[row].update(clean[None], decoded[None])
                border = border_ratio(decoded, cell) if cell > 1 else math.nan
                fact = {"number": number, "photograph": canvas.name, "width": width, "height": height, "row": row}
                facts.append({**fact, "border_ratio": border})
                advance(1)
    values = pd.concat([pd.DataFrame(suite.per_image()).assign(row=row) for row, suite in suites.items()])
    return pictures, pd.DataFrame(facts).merge(values.rename(columns={"image": "number"}), on=["number", "row"])


def _metrics(parameters: EvaluateParameters) -> list[str]:
    names = metric_names(parameters.metrics)
    return [name for name in (names if "psnr" in names else ("psnr", *names)) if METRICS[name].per_image]


def _codes(
    models: dict[str, SSDD], training: ImageDataset, parameters: EvaluateParameters, runtime: RuntimeConfig
) -> dict[str, Code]:
    """Returns all rows by name: the reference rows of the teacher's latent space, then the models, most steps first."""
    space = models["teacher"].decoder.config
    pca = fit_on(training, space.downscale, space.latent_channels, runtime)
    references = reference_codes(pca, space.upscale)
    rows: dict[str, Code] = {name: lambda x, _, code=code: code(x) for name, code in references.items()}  # type: ignore[misc]
    for name, counts in (("teacher", parameters.teacher_steps), ("student", parameters.student_steps)):
        for steps in sorted(counts, reverse=True):
            label = f"{name}, {steps} step{'' if steps == 1 else 's'}"
            rows[label] = _decoding(models[name], steps, parameters.noise_seed)
    return rows


def choose_photographs(dataset: ImageDataset, count: int) -> list[str]:
    """Returns the names of at most `count` photographs of a data set, spread evenly over it."""
    names = list(dict.fromkeys(dataset.source.photograph_of(dataset.path(i)) for i in range(len(dataset))))
    return [names[i] for i in np.linspace(0, len(names) - 1, min(count, len(names))).round().astype(int)]


def border_ratio(image: Tensor, cell: int) -> float:
    """Mean absolute difference of neighbours across the borders of cells, over the one inside cells: 1 without a grid.

    Args:
        image: (3, H, W), any scale.
        cell: side of a cell, pixels, at least 2.
    """
    across, inside = [], []
    for dim in (1, 2):
        differences = image.double().diff(dim=dim).abs().mean(dim=[0, 3 - dim])
        is_border = torch.arange(len(differences), device=image.device) % cell == cell - 1
        across.append(differences[is_border])
        inside.append(differences[~is_border])
    within = float(torch.cat(inside).mean())
    return float(torch.cat(across).mean()) / within if within else math.nan


def _load(checkpoint: Path, device: torch.device) -> SSDD:
    return SSDD.from_pretrained(checkpoint).to(device).to(memory_format=torch.channels_last)


def _decoding(model: SSDD, steps: int, seed: int) -> Code:
    def decode(x: Tensor, name: str) -> Tensor:
        noise = picture_noise(seed, [name], (3, x.shape[2], x.shape[3])).to(x.device)
        return model.reconstruct(shrink(x, model.upscale), steps, noise=noise, check_finite=True).float()

    return decode


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    picture = picture.copy()  # the source may keep its own
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return picture


def _levels(x: Tensor) -> Tensor:
    return to_uint8(((x[0] + 1) / 2).clamp(0, 1)).cpu()
