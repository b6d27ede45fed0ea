"""finetuned, image_index -> teacher_targets -> distilled, distill_history."""

from kedro.pipeline import Pipeline

from ssdd.stages.distill.nodes import cache_teacher_targets, distill_teacher
from ssdd.stages.namespaces import joint_node, stage, training_node


def create_pipeline() -> Pipeline:
    """The stage `distill`."""
    return stage(
        "distill",
        joint_node(
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
        ),
        training_node(
            distill_teacher,
            ["finetuned", "teacher_targets", "image_index", "params:distill", "params:teacher_targets"],
            ["distilled", "distilled_best", "distill_history"],
        ),
    )
