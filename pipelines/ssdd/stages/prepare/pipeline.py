"""images -> image_index, rejected_images, image_samples."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.namespaces import stage
from ssdd.stages.prepare.nodes import prepare_images


def create_pipeline() -> Pipeline:
    """The stage `prepare`."""
    return stage(
        "prepare",
        Node(
            prepare_images,
            ["images", "params:data", "params:prepare", "params:runtime"],
            ["image_index", "rejected_images", "image_samples"],
            name="prepare_images",
        ),
    )
