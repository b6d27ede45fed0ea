"""encoder, image_index -> latent_stats."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.namespaces import stage
from ssdd.stages.z_stats.nodes import compute_latent_statistics


def create_pipeline() -> Pipeline:
    """The stage `z_stats`."""
    return stage(
        "z_stats",
        Node(
            compute_latent_statistics,
            ["encoder", "image_index", "params:data", "params:z_stats", "params:runtime"],
            "latent_stats",
            name="compute_latent_statistics",
        ),
    )
