"""finetuned, distilled, image_index -> reference_statistics, reconstructions, per-image values, metrics."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.evaluate.nodes import (
    collect_metrics,
    compute_reference_statistics,
    decode_photographs,
    evaluate_references,
    evaluate_student,
    evaluate_teacher,
)
from ssdd.stages.namespaces import joint_node, stage

_COMMON = [
    "image_index",
    "reference_statistics",
    "params:data",
    "params:evaluate",
    "params:pretrained_networks",
    "params:runtime",
]


def create_pipeline() -> Pipeline:
    """The stage `evaluate`."""
    return stage(
        "evaluate",
        joint_node(
            compute_reference_statistics,
            [
                "image_index",
                "params:data",
                "params:evaluate.im_size",
                "params:evaluate.batch_size",
                "params:evaluate.limit",
                "params:evaluate.metrics",
                "params:pretrained_networks",
                "params:runtime",
            ],
            "reference_statistics",
        ),
        joint_node(
            evaluate_teacher,
            ["finetuned", *_COMMON],
            ["teacher_reconstructions", "teacher_per_image", "teacher_metrics"],
        ),
        joint_node(
            evaluate_student,
            ["distilled", *_COMMON],
            ["student_reconstructions", "student_per_image", "student_metrics"],
        ),
        joint_node(
            evaluate_references,
            ["finetuned", *_COMMON],
            ["reference_reconstructions", "reference_per_image", "reference_metrics"],
        ),
        Node(
            decode_photographs,
            ["finetuned", "distilled", *(name for name in _COMMON if name != "reference_statistics")],
            ["photographs", "photograph_metrics"],
            name="decode_photographs",
        ),
        Node(
            collect_metrics,
            ["teacher_metrics", "student_metrics", "reference_metrics"],
            "metrics",
            name="collect_metrics",
        ),
    )
