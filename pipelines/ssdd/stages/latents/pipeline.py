"""encoder, image_index -> latent_shards."""

from kedro.pipeline import Pipeline

from ssdd.stages.latents.nodes import encode_latents
from ssdd.stages.namespaces import joint_node, stage


def create_pipeline() -> Pipeline:
    """The stage `latents`."""
    inputs = ["encoder", "image_index", "params:latents", "params:data", "params:runtime"]
    return stage("latents", joint_node(encode_latents, inputs, "latent_shards"))
