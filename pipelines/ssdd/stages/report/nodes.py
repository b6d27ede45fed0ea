"""The figures of a run as catalog entries."""

from pathlib import Path
from typing import Any


def draw_reconstructions(
    teacher_reconstructions: Path, student_reconstructions: Path, reference_reconstructions: Path
) -> tuple[Any, Any]:
    """Draws inputs, resized images and reconstructions side by side, and the student's best and worst images."""
    from safetensors.torch import load_file

    from ssdd.reporting.run_figures import extremes_figure, reconstruction_figure

    teacher, student = load_file(teacher_reconstructions), load_file(student_reconstructions)
    references = load_file(reference_reconstructions)
    return reconstruction_figure(teacher, student, references), extremes_figure(student)


def draw_photographs(photographs: Path, photograph_metrics: Any) -> Any:
    """Draws whole photographs side by side, each with a detail: input, resize, teacher and student."""
    from safetensors.torch import load_file

    from ssdd.reporting.photograph_figures import photographs_figure

    return photographs_figure(load_file(photographs), photograph_metrics)


def draw_curves(encoder_history: Any, pretrain_history: Any, finetune_history: Any, distill_history: Any) -> Any:
    """Draws the training curves of the stages that ran."""
    from ssdd.reporting.run_figures import curves_figure

    histories = {
        "train encoder": encoder_history,
        "pretrain": pretrain_history,
        "finetune": finetune_history,
        "distill": distill_history,
    }
    return curves_figure(histories)
