"""latent_shards -> generator, its best checkpoint, its history."""

from kedro.pipeline import Pipeline

from ssdd.stages.namespaces import joint_node, stage
from ssdd.stages.train_generator.nodes import train_generator


def create_pipeline() -> Pipeline:
    """The stage `train_generator`."""
    return stage(
        "train_generator",
        joint_node(
            train_generator,
            ["latent_shards", "params:train_generator", "params:runtime"],
            ["generator", "generator_best", "generator_history"],
        ),
    )
