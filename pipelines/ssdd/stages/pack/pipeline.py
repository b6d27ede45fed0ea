"""image_index -> packed_images."""

from kedro.pipeline import Pipeline

from ssdd.stages.namespaces import joint_node, stage
from ssdd.stages.pack.nodes import pack_images


def create_pipeline() -> Pipeline:
    """The stage `pack`."""
    return stage(
        "pack",
        joint_node(pack_images, ["image_index", "params:data", "params:pack", "params:runtime"], "packed_images"),
    )
