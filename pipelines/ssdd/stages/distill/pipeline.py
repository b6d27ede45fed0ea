"""finetuned, image_index -> teacher_targets -> distilled, distill_history."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.distill.nodes import cache_teacher_targets, distill_teacher
from ssdd.stages.namespaces import stage


def create_pipeline() -> Pipeline:
    """The stage `distill`."""
    return stage(
        "distill",
        Node(
            cache_teacher_targets,
            [
                "finetuned",
                "image_index",
                "params:teacher_targets",
                "params:distill.im_size",
                "params:distill.aug_scale",
                "params:distill.augment",
                "params:distill.seed",
                "params:data",
                "params:runtime",
            ],
            "teacher_targets",
            name="cache_teacher_targets",
            tags=["distributed"],
        ),
        Node(
            distill_teacher,
            [
                "finetuned",
                "teacher_targets",
                "image_index",
                "params:distill",
                "params:teacher_targets",
                "params:data",
                "params:pretrained_networks",
                "params:runtime",
            ],
            ["distilled", "distilled_best", "distill_history"],
            name="distill_teacher",
            tags=["distributed"],
        ),
    )
