"""Teacher and student on the held-out images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.parameters import DataParameters, EvaluateParameters, PretrainedNetworks, RuntimeConfig
from ssdd.stages.evaluation_stage import measurement_of, results_of, save_pictures

if TYPE_CHECKING:
    from ssdd.evaluation.final import Measurement


def compute_reference_statistics(
    index: Any,
    data: DataParameters,
    im_size: int,
    batch_size: int,
    limit: int | None,
    metrics: Any,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> Path:
    """Runs the networks of the Frechet metrics (rFID, FDD) over the held-out images once, for all models.

    Args:
        index: of the images.
        data: the images' source.
        im_size, batch_size, limit, metrics: of the evaluation.
        pretrained_networks: the pretrained networks.
        runtime: device, processes, threads.

    Returns:
        a safetensors file, see `ssdd_metrics.save_references`.
    """
    from ssdd.data.image_sets import held_out_images
    from ssdd.evaluation.reference_statistics import write_references
    from ssdd.lineage import state_folder

    dataset = held_out_images(index, data, im_size, limit)
    file = state_folder() / "reference_statistics.safetensors"
    return write_references(file, dataset, im_size, batch_size, metrics, pretrained_networks, runtime)


def evaluate_teacher(
    finetuned: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Any, list[dict[str, Any]]]:
    """Decodes the held-out images with the teacher: pictures, values per image, and figures per number of steps."""
    measurement = measurement_of(index, references, data, evaluate, pretrained_networks, runtime)
    return _evaluate("teacher", finetuned, evaluate.teacher_steps, measurement)


def evaluate_student(
    distilled: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Any, list[dict[str, Any]]]:
    """Decodes the held-out images with the student: pictures, values per image, and figures per number of steps."""
    measurement = measurement_of(index, references, data, evaluate, pretrained_networks, runtime)
    return _evaluate("student", distilled, evaluate.student_steps, measurement)


def evaluate_references(
    finetuned: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Any, list[dict[str, Any]]]:
    """Measures codes that need no training, on the same images: resizes, and a PCA of patches.

    One resize is by the down-scale F of the latents. The other resize and the PCA keep as many numbers as the latents.
    """
    from ssdd.data.image_sets import training_images
    from ssdd.encoders import encoder_config_in
    from ssdd.evaluation.reference_rows import FITTED_IMAGES
    from ssdd.evaluation.reference_rows import evaluate_references as measure_rows
    from ssdd.parameters import StageParameters
    from ssdd_encoder import checkpoint

    # Only the encoder's configuration is read, so that an edit to the decoder does not make these rows stale.
    header = checkpoint.read_header(finetuned)
    encoder = encoder_config_in(header)
    assert encoder is not None
    upscale = int(header.config["decoder"].get("upscale", 1))
    training = training_images(index, data, StageParameters(im_size=evaluate.im_size), FITTED_IMAGES)
    space = (encoder.downscale * upscale, encoder.latent_channels)
    measurement = measurement_of(index, references, data, evaluate, pretrained_networks, runtime)
    return results_of("reference", measure_rows(training, space, measurement, upscale), measurement.dataset, finetuned)


def decode_photographs(
    finetuned: Path,
    distilled: Path,
    index: Any,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Any]:
    """Decodes whole held-out photographs with teacher, student and the reference rows: pictures, and a table."""
    from ssdd.data.image_sets import held_out_images, training_images
    from ssdd.evaluation import photographs
    from ssdd.evaluation.reference_rows import FITTED_IMAGES
    from ssdd.parameters import StageParameters

    dataset = held_out_images(index, data, evaluate.im_size, evaluate.limit)
    training = training_images(index, data, StageParameters(im_size=evaluate.im_size), FITTED_IMAGES)
    pictures, table = photographs.decode_photographs(
        finetuned, distilled, training, dataset, evaluate, pretrained_networks, runtime
    )
    return save_pictures("photographs", pictures), table


def collect_metrics(
    teacher: list[dict[str, Any]], student: list[dict[str, Any]], references: list[dict[str, Any]]
) -> Any:
    """Collects a row per model and number of steps: every figure, its interval, and the protocol."""
    import pandas

    rows = []
    for part in references + teacher + student:
        report = part["report"]
        row: dict[str, Any] = {"model": part["model"], "steps": part["steps"], **report["metrics"]}
        for name, interval in report["intervals"].items():
            row |= {f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
        rows.append(row | {"protocol": json.dumps(report["protocol"], sort_keys=True)})
    return pandas.DataFrame(rows)


def _evaluate(
    model: str, checkpoint: Path, steps: tuple[int, ...], measurement: "Measurement"
) -> tuple[Path, Any, list[dict[str, Any]]]:
    """Returns pictures (safetensors, by path), a table of per-image values, and a report per number of steps."""
    from ssdd.evaluation.final import evaluate

    found = evaluate(checkpoint, steps, measurement, f"evaluating the {model}")
    return results_of(model, found, measurement.dataset, checkpoint)
