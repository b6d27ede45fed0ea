"""The table and the figures of the comparison as catalog entries."""

from pathlib import Path
from typing import Any

from ssdd.comparison_parameters import GridParameters
from ssdd.parameters import EvaluateParameters, TargetParameters


def collect_comparison(
    reference_metrics: list[dict[str, Any]],
    teacher_metrics: list[dict[str, Any]],
    student_metrics: list[dict[str, Any]],
    kl_metrics: list[dict[str, Any]],
    kl_adversarial_metrics: list[dict[str, Any]] | None,
    feed_forward_metrics: list[dict[str, Any]],
    other_metrics: list[dict[str, Any]],
    reference_per_image: Any,
    teacher_per_image: Any,
    student_per_image: Any,
    kl_per_image: Any,
    kl_adversarial_per_image: Any,
    feed_forward_per_image: Any,
    other_per_image: Any,
    speed: Any,
) -> Any:
    """Puts all rows into one table; see `comparison_table`. The adversarial row is None where it is switched off."""
    from ssdd.reporting.comparison_table import comparison_table

    reports = [*reference_metrics, *teacher_metrics, *student_metrics, *kl_metrics, *(kl_adversarial_metrics or [])]
    reports += [*feed_forward_metrics, *other_metrics]
    tables = [reference_per_image, teacher_per_image, student_per_image, kl_per_image, kl_adversarial_per_image]
    tables = [table for table in (*tables, feed_forward_per_image, other_per_image) if table is not None]
    return comparison_table(reports, tables, speed)


def collect_costs(
    encoder_history: Any,
    pretrain_history: Any,
    finetune_history: Any,
    distill_history: Any,
    kl_start_history: Any,
    kl_history: Any,
    kl_adversarial_history: Any,
    feed_forward_history: Any,
    plan: dict[str, Any],
    steps: Any,
    targets: TargetParameters,
    train_encoder_side: int,
    pretrain_side: int,
    finetune_side: int,
    distill_side: int,
    train_kl_side: int,
    feed_forward_side: int,
) -> Any:
    """Puts the quality on the way of each training (on images of these sides) beside its cost; see `cost_table`."""
    from ssdd.reporting.comparison_table import FEED_FORWARD, KL, KL_ADVERSARIAL, cost_table

    histories = {
        "train_encoder": encoder_history,
        "pretrain": pretrain_history,
        "finetune": finetune_history,
        "distill": distill_history,
    }
    begun = (KL, kl_start_history)
    others = {
        KL: [begun, (KL, kl_history)],
        KL_ADVERSARIAL: [begun, (KL_ADVERSARIAL, kl_adversarial_history)],
        FEED_FORWARD: [(FEED_FORWARD, feed_forward_history)],
    }
    if kl_adversarial_history is None:  # switched off
        del others[KL_ADVERSARIAL]
    taught = min(targets.images or plan["images"], plan["images"]) if targets.cached else 0
    sides = {
        "train_encoder": train_encoder_side,
        "pretrain": pretrain_side,
        "finetune": finetune_side,
        "distill": distill_side,
        KL: train_kl_side,
        KL_ADVERSARIAL: train_kl_side,
        FEED_FORWARD: feed_forward_side,
    }
    return cost_table(histories, others, plan, steps, taught, sides)


def draw_comparison(comparison: Any, costs: Any, evaluate: EvaluateParameters) -> tuple[Any, Any]:
    """Draws quality over speed and quality over training cost."""
    from ssdd.reporting.comparison_figures import cost_figure, quality_speed_figure

    return quality_speed_figure(comparison, evaluate.im_size), cost_figure(costs)


def draw_differences(
    photographs: Path, compared_photographs: Path, photograph_metrics: Any, grid: GridParameters
) -> Any:
    """Draws the crops in which the KL-VAE and the student differ most."""
    from safetensors.torch import load_file

    from ssdd.reporting.comparison_figures import difference_figure
    from ssdd.reporting.comparison_table import FEED_FORWARD, KL, KL_ADVERSARIAL
    from ssdd.reporting.photograph_figures import INPUT, compared_rows

    _, teacher, student = compared_rows(photograph_metrics)
    pictures = {**load_file(photographs), **load_file(compared_photographs)}
    there = {name.partition(".")[2] for name in pictures}
    columns = [name for name in (INPUT, KL, KL_ADVERSARIAL, FEED_FORWARD, teacher, student) if name in there]
    return difference_figure(pictures, columns, (KL, student), grid.crop, grid.images)
