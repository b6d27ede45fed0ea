"""pretrained, image_index -> finetuned, finetune_history."""

from kedro.pipeline import Pipeline

from ssdd.stages.finetune.nodes import finetune
from ssdd.stages.namespaces import stage, training_node


def create_pipeline() -> Pipeline:
    """The stage `finetune`."""
    return stage(
        "finetune",
        training_node(
            finetune,
            ["pretrained", "image_index", "params:finetune"],
            ["finetuned", "finetuned_best", "finetune_history"],
        ),
    )
