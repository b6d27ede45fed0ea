"""finetuned, image_index -> frozen_encoder, comparison_plan -> kl_start -> kl, kl_adversarial; feed_forward."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.namespaces import stage, training_node
from ssdd.stages.train_kl.nodes import begin_kl, plan_comparison, train_feed_forward, train_kl, train_kl_adversarial

_COMMON = ["frozen_encoder", "comparison_plan", "image_index"]
_START = "params:kl_adversary.start"


def create_pipeline() -> Pipeline:
    """The stage `train_kl`."""
    return stage(
        "train_kl",
        Node(
            plan_comparison,
            [
                "finetuned",
                "image_index",
                "params:pretrain.initialize",
                "params:train_encoder.epochs",
                "params:pretrain.epochs",
                "params:finetune.epochs",
                "params:distill.epochs",
                "params:teacher_targets",
            ],
            ["frozen_encoder", "comparison_plan"],
            name="plan_comparison",
        ),
        training_node(
            begin_kl, [*_COMMON, "params:train_kl", _START], ["kl_start", "kl_start_best", "kl_start_history"]
        ),
        training_node(train_kl, ["kl_start", *_COMMON, "params:train_kl", _START], ["kl", "kl_best", "kl_history"]),
        training_node(
            train_kl_adversarial,
            ["kl_start", *_COMMON, "params:train_kl", "params:kl_adversary"],
            ["kl_adversarial", "kl_adversarial_best", "kl_adversarial_history"],
        ),
        training_node(
            train_feed_forward,
            [*_COMMON, "params:feed_forward"],
            ["feed_forward", "feed_forward_best", "feed_forward_history"],
        ),
    )
