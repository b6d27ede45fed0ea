"""The decoders of a run on latents with noise: figures, pictures, and the curve of quality against noise."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.comparison_parameters import RobustnessParameters
from ssdd.parameters import DataParameters, EvaluateParameters, PretrainedNetworks, RuntimeConfig
from ssdd.reporting.comparison_table import KL
from ssdd.stages.evaluation_stage import measurement_of, save_pictures

if TYPE_CHECKING:
    from ssdd.evaluation.compared import ComparedDecoder
    from ssdd.evaluation.final import Measurement


def measure_ssdd_robustness(
    finetuned: Path,
    distilled: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    robustness: RobustnessParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Any, Path]:
    """Decodes noisy latents of the held-out images with teacher and student, each with its first number of steps.

    Returns:
        a row for each decoder and level of noise, and a file of pictures.
    """
    from ssdd.evaluation.compared import ComparedDecoder

    decoders = [
        ComparedDecoder("teacher", "ssdd", str(finetuned), evaluate.teacher_steps[:1]),
        ComparedDecoder("student", "ssdd", str(distilled), evaluate.student_steps[:1]),
    ]
    measurement = measurement_of(index, references, data, evaluate, pretrained_networks, runtime)
    return _measure("ssdd", decoders, robustness, measurement, distilled)


def measure_kl_robustness(
    kl: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    robustness: RobustnessParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Any, Path]:
    """Does the same with the KL-VAE's decoder."""
    from ssdd.evaluation.compared import ComparedDecoder

    measurement = measurement_of(index, references, data, evaluate, pretrained_networks, runtime)
    return _measure("kl", [ComparedDecoder(KL, "kl", str(kl))], robustness, measurement, kl)


def draw_robustness(ssdd: Any, kl: Any, ssdd_pictures: Path, kl_pictures: Path) -> tuple[Any, Any, Any]:
    """Puts all rows into one table, and draws the curves and some pictures."""
    import pandas
    from safetensors.torch import load_file

    from ssdd.reporting.robustness_figures import noisy_pictures, robustness_curves

    table = pandas.concat([ssdd, kl], ignore_index=True)
    pictures = load_file(ssdd_pictures) | load_file(kl_pictures)
    return table, robustness_curves(table), noisy_pictures(pictures, list(dict.fromkeys(table["model"])))


def _measure(
    name: str,
    decoders: "list[ComparedDecoder]",
    robustness: RobustnessParameters,
    measurement: "Measurement",
    checkpoint: Path,
) -> tuple[Any, Path]:
    import pandas

    from ssdd.evaluation.robustness import evaluate_robustness
    from ssdd.processes import is_main

    found = [row for decoder in decoders for row in evaluate_robustness(decoder, robustness.levels, measurement)]
    if not is_main():
        return None, checkpoint
    rows, pictures = [], {}
    for part in found:
        report = part.evaluated.report
        row = {"model": part.decoder, "steps": part.evaluated.steps, "latent_noise": part.level, **report["metrics"]}
        for metric, interval in report["intervals"].items():
            row |= {f"{metric}_low": interval["low"], f"{metric}_high": interval["high"]}
        rows.append(row | {"protocol": json.dumps(report["protocol"], sort_keys=True)})
        pictures[f"{part.decoder}|{part.level:g}"] = part.evaluated.pictures["shown"]
        pictures["input|"] = part.evaluated.pictures["shown_input"]
    return pandas.DataFrame(rows), save_pictures(f"{name}_pictures", pictures)
