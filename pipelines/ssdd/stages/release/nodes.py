"""The student as a file for others: half the size, with a card that states its use, figures and limits."""

from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters, EvaluateParameters, RuntimeConfig

COMPARED = 64  # held-out images; the difference between two roundings of the same weights hardly varies


def pack_model(distilled: Path, latent_stats: dict[str, Any] | None) -> Path:
    """Writes encoder and decoder with their weights in bfloat16 and their vectors in float32.

    Args:
        distilled: the student.
        latent_stats: of the latents, for the header: a file that leaves its run has nothing beside it. None where the
            stage that computes them was left out.
    """
    import json

    import torch

    from ssdd.autoencoder import SSDD
    from ssdd.latent_scaling import STATISTICS_KEY
    from ssdd.lineage import state_folder

    model = SSDD.from_pretrained(distilled)
    # Biases and scales stay in float32. They are half a percent of the numbers, and a file of both dtypes loads as
    # float32, which every CPU computes fast, wherever it is loaded: no reader needs to know about it.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)
    header = {} if latent_stats is None else {STATISTICS_KEY: json.dumps(latent_stats)}
    return model.save_pretrained(state_folder() / "released.safetensors", header)


def measure_rounding(
    distilled: Path,
    released_model: Path,
    index: Any,
    data: DataParameters,
    evaluate: EvaluateParameters,
    runtime: RuntimeConfig,
) -> dict[str, float]:
    """Compares the reconstructions of the student and of its released file, whose weights are rounded."""
    from ssdd.data.image_sets import held_out_images
    from ssdd.evaluation.rounding import compare_reconstructions
    from ssdd.processes import use_threads

    use_threads(runtime)
    images = held_out_images(index, data, evaluate.im_size, min(evaluate.limit or COMPARED, COMPARED))
    return compare_reconstructions(distilled, released_model, images, evaluate, runtime)


def write_card(
    released_model: Path,
    rounding: dict[str, float],
    metrics: Any,
    photograph_metrics: Any,
    encoder_history: Any,
    pretrain_history: Any,
    finetune_history: Any,
    distill_history: Any,
    index: Any,
    data: DataParameters,
    run_name: str,
) -> str:
    """Writes the card of the released model: its use, data, figures and limits (Markdown)."""
    from ssdd.reporting.model_card import model_card
    from ssdd.stages.release.run_card import HISTORIES, origin_of

    histories = dict(
        zip(HISTORIES, (encoder_history, pretrain_history, finetune_history, distill_history), strict=True)
    )
    origin = origin_of(released_model)
    return model_card(released_model, run_name, metrics, photograph_metrics, rounding, histories, index, data, origin)
