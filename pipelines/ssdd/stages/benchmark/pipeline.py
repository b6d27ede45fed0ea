"""nothing -> machine, timings, figures; finetuned, distilled, metrics -> quality against speed."""

from kedro.pipeline import Node, Pipeline

from ssdd.stages.benchmark.nodes import (
    benchmark_decoding,
    benchmark_quality,
    benchmark_training,
    draw_quality,
    draw_speed,
    look_at_machine,
    write_tables,
)
from ssdd.stages.namespaces import stage

_COMMON = ["params:benchmark", "params:runtime"]


def create_pipeline() -> Pipeline:
    """The stage `benchmark`; what carries the tag `speed` needs no trained model."""
    return stage(
        "benchmark",
        Node(look_at_machine, _COMMON, "machine", name="look_at_machine", tags=["speed"]),
        Node(
            benchmark_decoding,
            ["machine", *_COMMON],
            "decoding_benchmark",
            name="benchmark_decoding",
            tags=["speed"],
        ),
        Node(
            benchmark_training,
            ["machine", *_COMMON],
            "training_benchmark",
            name="benchmark_training",
            tags=["speed"],
        ),
        Node(draw_speed, "decoding_benchmark", "speed_figure", name="draw_speed", tags=["speed"]),
        Node(
            write_tables,
            ["machine", "decoding_benchmark", "training_benchmark"],
            "performance",
            name="write_tables",
            tags=["speed"],
        ),
        Node(
            benchmark_quality,
            ["finetuned", "distilled", "metrics", "params:evaluate", *_COMMON],
            "quality_benchmark",
            name="benchmark_quality",
        ),
        Node(draw_quality, "quality_benchmark", "quality_figure", name="draw_quality"),
    )
