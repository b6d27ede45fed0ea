"""images -> image_index, rejected_images, image_samples."""

from kedro.pipeline import Pipeline

from ssdd.stages.namespaces import joint_node, stage
from ssdd.stages.prepare.nodes import prepare_images


def create_pipeline() -> Pipeline:
    """The stage `prepare`."""
    return stage(
        "prepare",
        joint_node(
            prepare_images,
            ["images", "params:data", "params:prepare", "params:runtime"],
            ["image_index", "rejected_images", "image_samples"],
        ),
    )
