"""pretrained, image_index -> finetuned, finetune_history."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.finetune.nodes import finetune
from ssdd.stages.namespaces import stage


def create_pipeline() -> Pipeline:
    """The stage `finetune`."""
    return stage(
        "finetune",
        Node(
            finetune,
            [
                "pretrained",
                "image_index",
                "params:finetune",
                "params:data",
                "params:pretrained_networks",
                "params:runtime",
            ],
            ["finetuned", "finetuned_best", "finetune_history"],
            name="finetune",
            tags=["distributed"],
        ),
    )
