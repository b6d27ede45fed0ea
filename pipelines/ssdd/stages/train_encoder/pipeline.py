"""image_index -> encoder, encoder_history."""

from kedro.pipeline import Pipeline

from ssdd.stages.namespaces import stage, training_node
from ssdd.stages.train_encoder.nodes import train_encoder


def create_pipeline() -> Pipeline:
    """The stage `train_encoder`."""
    return stage(
        "train_encoder",
        training_node(
            train_encoder,
            ["image_index", "params:model", "params:train_encoder"],
            ["encoder", "encoder_best", "encoder_history"],
        ),
    )
