"""encoder, image_index -> pretrained, pretrain_history."""

from kedro.pipeline import Pipeline

from ssdd.stages.namespaces import stage, training_node
from ssdd.stages.pretrain.nodes import pretrain


def create_pipeline() -> Pipeline:
    """The stage `pretrain`."""
    return stage(
        "pretrain",
        training_node(
            pretrain,
            ["encoder", "image_index", "params:model", "params:pretrain"],
            ["pretrained", "pretrained_best", "pretrain_history"],
        ),
    )
