"""encoder, image_index -> pretrained, pretrain_history."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.namespaces import stage
from ssdd.stages.pretrain.nodes import pretrain


def create_pipeline() -> Pipeline:
    """The stage `pretrain`."""
    return stage(
        "pretrain",
        Node(
            pretrain,
            [
                "encoder",
                "image_index",
                "params:model",
                "params:pretrain",
                "params:data",
                "params:pretrained_networks",
                "params:runtime",
            ],
            ["pretrained", "pretrained_best", "pretrain_history"],
            name="pretrain",
            tags=["distributed"],
        ),
    )
