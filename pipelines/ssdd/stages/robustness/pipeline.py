"""teacher, student, kl -> robustness, its figures."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.namespaces import joint_node, stage
from ssdd.stages.robustness.nodes import draw_robustness, measure_kl_robustness, measure_ssdd_robustness

_IMAGES = ["image_index", "reference_statistics", "params:data", "params:evaluate", "params:robustness"]
_COMMON = [*_IMAGES, "params:pretrained_networks", "params:runtime"]


def create_pipeline() -> Pipeline:
    """The stage `robustness`."""
    return stage(
        "robustness",
        joint_node(
            measure_ssdd_robustness,
            ["finetuned", "distilled", *_COMMON],
            ["ssdd_robustness", "ssdd_noisy_pictures"],
        ),
        joint_node(
            measure_kl_robustness,
            ["kl", *_COMMON],
            ["kl_robustness", "kl_noisy_pictures"],
        ),
        Node(
            draw_robustness,
            ["ssdd_robustness", "kl_robustness", "ssdd_noisy_pictures", "kl_noisy_pictures"],
            ["robustness", "robustness_figure", "robustness_pictures"],
            name="draw_robustness",
        ),
    )
