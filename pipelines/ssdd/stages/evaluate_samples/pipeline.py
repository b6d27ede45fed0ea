"""*samples, latent_shards, generator -> reference_samples, sample_metrics, sampling_speed, a figure."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.evaluate_samples.nodes import (
    benchmark_spaces,
    draw_sample_quality,
    make_reference_samples,
    measure_samples,
    measure_sampling_speed,
)
from ssdd.stages.namespaces import stage


def create_pipeline() -> Pipeline:
    """The stage `evaluate_samples`."""
    return stage(
        "evaluate_samples",
        Node(
            make_reference_samples,
            [
                "generator",
                "latent_shards",
                "distilled",
                "params:generate",
                "params:train_generator.seed",
                "params:runtime",
            ],
            "reference_samples",
            name="make_reference_samples",
        ),
        Node(
            measure_samples,
            [
                *("samples", "teacher_samples", "kl_samples", "reference_samples"),
                "latent_shards",
                "image_index",
                "reference_statistics",
                "params:generate",
                "params:data",
                *("params:evaluate.im_size", "params:evaluate.limit", "params:evaluate.metrics"),
                "params:pretrained_networks",
                "params:runtime",
            ],
            "sample_metrics",
            name="measure_samples",
        ),
        Node(
            measure_sampling_speed,
            [
                *("generator", "distilled", "finetuned", "kl_of_samples"),
                *("params:generate", "params:sample_speed", "params:runtime"),
            ],
            "sampling_speed",
            name="measure_sampling_speed",
        ),
        Node(
            draw_sample_quality,
            ["sample_metrics", "sampling_speed"],
            "sample_quality_figure",
            name="draw_sample_quality",
        ),
        Node(
            benchmark_spaces,
            ["params:generation_speed", "params:runtime"],
            "generation_speed",
            name="benchmark_spaces",
            tags=["generation-speed"],
        ),
    )
