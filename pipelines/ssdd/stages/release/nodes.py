"""The student as a file for others: half the size, with a card that states its use, figures and limits."""

from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters, EvaluateParameters, RuntimeConfig

COMPARED = 64  # held-out images; the difference between two roundings of the same weights hardly varies


def pack_model(distilled: Path) -> Path:
    """Writes encoder and decoder with their weights in bfloat16 and their vectors in float32."""
    import torch

    from ssdd.autoencoder import SSDD
    from ssdd.lineage import state_folder

    model = SSDD.from_pretrained(distilled)
    # Biases and scales stay in float32. They are half a percent of the numbers, and a file of both dtypes loads as
    # float32, which every CPU computes fast, wherever it is loaded: no reader needs to know about it.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model.save_pretrained(state_folder() / "released.safetensors")


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

    histories = {
        "train encoder": encoder_history,
        "pretrain": pretrain_history,
        "finetune": finetune_history,
        "distill": distill_history,
    }
    origin = _origin(released_model)
    return model_card(released_model, run_name, metrics, photograph_metrics, rounding, histories, index, data, origin)


def _origin(file: Path) -> dict[str, Any]:
    """Returns command, commits and machines from the stamps of a file and of all that it is made of.

    They are no inputs, since nothing that they say changes a result: a card keeps what was true when it was written.
    """
    from ssdd.lineage.stamps import read_stamp

    stamps: dict[str, dict[str, Any]] = {}  # inputs first: the times of stamps are seconds, and short stages share one

    def visit(here: Path) -> None:
        stamp = read_stamp(here)
        if stamp is None or stamp.node in stamps:
            return
        for name in stamp.about["files"].values():
            visit(here.parent / name)
        stamps[stamp.node] = stamp.about

    visit(file)
    if not stamps:
        return {}
    commits: dict[str, list[str]] = {}
    for node, about in stamps.items():
        changed = " with uncommitted changes" if about["dirty"] else ""
        commits.setdefault(f"{about['commit'] or 'unknown'}{changed}", []).append(node)
    machines = {", ".join([about["machine"]["cpu"], *about["machine"]["gpu"]]) for about in stamps.values()}
    return {"command": next(reversed(stamps.values()))["command"], "commits": commits, "machines": sorted(machines)}
