"""encoder, image_index -> latent_stats."""

from kedro.pipeline import Pipeline

from ssdd.stages.namespaces import joint_node, stage
from ssdd.stages.z_stats.nodes import compute_latent_statistics


def create_pipeline() -> Pipeline:
    """The stage `z_stats`."""
    inputs = ["encoder", "image_index", "params:data", "params:z_stats", "params:runtime"]
    return stage("z_stats", joint_node(compute_latent_statistics, inputs, "latent_stats"))
