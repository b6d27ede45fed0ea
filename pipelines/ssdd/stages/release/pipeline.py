"""distilled, metrics, histories -> released_model, rounding, model_card."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.namespaces import stage
from ssdd.stages.release.nodes import measure_rounding, pack_model, write_card


def create_pipeline() -> Pipeline:
    """The stage `release`."""
    return stage(
        "release",
        Node(pack_model, ["distilled", "latent_stats"], "released_model", name="pack_model"),
        Node(
            measure_rounding,
            ["distilled", "released_model", "image_index", "params:data", "params:evaluate", "params:runtime"],
            "rounding",
            name="measure_rounding",
        ),
        Node(
            write_card,
            [
                "released_model",
                "rounding",
                "metrics",
                "photograph_metrics",
                "encoder_history",
                "pretrain_history",
                "finetune_history",
                "distill_history",
                "image_index",
                "params:data",
                "params:run_name",
            ],
            "model_card",
            name="write_card",
        ),
    )
