"""image_index -> encoder, encoder_history."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.namespaces import stage
from ssdd.stages.train_encoder.nodes import train_encoder


def create_pipeline() -> Pipeline:
    """The stage `train_encoder`."""
    return stage(
        "train_encoder",
        Node(
            train_encoder,
            [
                "image_index",
                "params:model",
                "params:train_encoder",
                "params:data",
                "params:pretrained_networks",
                "params:runtime",
            ],
            ["encoder", "encoder_best", "encoder_history"],
            name="train_encoder",
            tags=["distributed"],
        ),
    )
