"""teacher, student, kl, kl_adversarial, feed_forward, others -> comparison, its figures, its section of the report."""

from kedro.pipeline import Node, Pipeline

from ssdd.reporting.comparison_section import comparison_section
from ssdd.stages.compare.costs import measure_training_cost
from ssdd.stages.compare.figures import collect_comparison, collect_costs, draw_comparison, draw_differences
from ssdd.stages.compare.nodes import (
    decode_compared,
    evaluate_feed_forward,
    evaluate_kl,
    evaluate_kl_adversarial,
    evaluate_others,
    measure_speed,
)
from ssdd.stages.namespaces import joint_node, stage

_IMAGES = ["image_index", "reference_statistics", "params:data", "params:evaluate"]
_NETWORKS = ["params:pretrained_networks", "params:runtime"]
_DECODERS = ["kl", "kl_adversarial", "feed_forward"]
_TRAININGS = ["train_encoder", "pretrain", "finetune", "distill", "train_kl", "feed_forward"]
_ROWS = ["reference", "teacher", "student", *_DECODERS, "other"]


def create_pipeline() -> Pipeline:
    """The stage `compare`."""
    return stage("compare", *_evaluations(), *_costs(), *_tables(), *_figures())


def _evaluations() -> list[Node]:
    functions = {"kl": evaluate_kl, "kl_adversarial": evaluate_kl_adversarial, "feed_forward": evaluate_feed_forward}
    return [
        *(
            joint_node(function, [name, *_IMAGES, *_NETWORKS], [f"{name}_per_image", f"{name}_metrics"])
            for name, function in functions.items()
        ),
        joint_node(
            evaluate_others,
            [*_IMAGES[:2], "comparison_plan", *_IMAGES[2:], "params:compare", *_NETWORKS],
            ["other_per_image", "other_metrics"],
        ),
        Node(
            decode_compared,
            ["photographs", *_DECODERS, "params:runtime"],
            "compared_photographs",
            name="decode_compared",
        ),
    ]


def _costs() -> list[Node]:
    speed = ["params:evaluate", "params:compare", "params:compare_speed", "params:runtime"]
    stages = ["pretrain", "finetune", "distill", "teacher_targets", "train_kl", "kl_adversary", "feed_forward", "data"]
    others = ["pretrained_networks", "compare_speed", "runtime"]
    return [
        Node(
            measure_speed,
            ["finetuned", "distilled", *_DECODERS, "comparison_plan", *speed],
            "comparison_speed",
            name="measure_speed",
        ),
        Node(
            measure_training_cost,
            [
                *("finetuned", "frozen_encoder", "teacher_targets", "comparison_plan", "image_index"),
                *(f"params:{name}" for name in (*stages, *others)),
            ],
            "training_steps",
            name="measure_training_cost",
        ),
    ]


def _tables() -> list[Node]:
    return [
        Node(
            collect_comparison,
            [*(f"{row}_metrics" for row in _ROWS), *(f"{row}_per_image" for row in _ROWS), "comparison_speed"],
            "comparison",
            name="collect_comparison",
        ),
        Node(
            collect_costs,
            [
                *(f"{name}_history" for name in ("encoder", "pretrain", "finetune", "distill", "kl_start", *_DECODERS)),
                *("comparison_plan", "training_steps", "params:teacher_targets"),
                *(f"params:{name}.im_size" for name in _TRAININGS),
            ],
            "training_costs",
            name="collect_costs",
        ),
    ]


def _figures() -> list[Node]:
    return [
        Node(
            draw_comparison,
            ["comparison", "training_costs", "params:evaluate"],
            ["quality_speed_figure", "cost_figure"],
            name="draw_comparison",
        ),
        Node(
            draw_differences,
            ["photographs", "compared_photographs", "photograph_metrics", "params:compare_grid"],
            "difference_figure",
            name="draw_differences",
        ),
        Node(
            comparison_section,
            [
                "comparison",
                "training_costs",
                "comparison_plan",
                "quality_speed_figure",
                "cost_figure",
                "difference_figure",
            ],
            "comparison_section",
            name="write_section",
        ),
    ]
