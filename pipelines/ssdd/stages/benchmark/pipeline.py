"""nothing -> machine, timings, figures; finetuned, distilled, metrics -> quality against speed."""

from kedro.pipeline import Node, Pipeline

from ssdd.benchmarking.benchmark_figures import quality_figure, speed_figure
from ssdd.benchmarking.performance_page import exported_page, performance_page
from ssdd.stages.benchmark.nodes import (
    benchmark_decoding,
    benchmark_exported,
    benchmark_loader,
    benchmark_quality,
    benchmark_scale,
    benchmark_training,
    look_at_machine,
    write_scale,
)
from ssdd.stages.namespaces import stage

_COMMON = ["params:benchmark", "params:runtime"]
_SPEED = ["speed", "gpu-short"]  # the second with --env=gpu, whose list of cases ends within eight minutes

_SCALE = "scale"
_EXPORTED = "exported"


def create_pipeline() -> Pipeline:
    """The stage `benchmark`; nodes with the tags `speed`, `gpu-short`, `scale` and `exported` need no trained model."""
    return stage(
        "benchmark",
        Node(look_at_machine, _COMMON, "machine", name="look_at_machine", tags=[*_SPEED, _SCALE, _EXPORTED]),
        Node(benchmark_decoding, ["machine", *_COMMON], "decoding_benchmark", name="benchmark_decoding", tags=_SPEED),
        Node(benchmark_training, ["machine", *_COMMON], "training_benchmark", name="benchmark_training", tags=_SPEED),
        Node(speed_figure, "decoding_benchmark", "speed_figure", name="draw_speed", tags=_SPEED),
        Node(
            performance_page,
            ["machine", "decoding_benchmark", "training_benchmark"],
            "performance",
            name="write_tables",
            tags=_SPEED,
        ),
        Node(benchmark_scale, ["machine", *_COMMON], "scale_benchmark", name="benchmark_scale", tags=_SCALE),
        Node(benchmark_loader, ["machine", *_COMMON], "loader_benchmark", name="benchmark_loader", tags=_SCALE),
        Node(write_scale, ["machine", "scale_benchmark"], "scale_page", name="write_scale", tags=_SCALE),
        Node(
            benchmark_exported,
            ["machine", *_COMMON],
            "exported_benchmark",
            name="benchmark_exported",
            tags=_EXPORTED,
        ),
        Node(exported_page, ["machine", "exported_benchmark"], "exported_page", name="write_exported", tags=_EXPORTED),
        Node(
            benchmark_quality,
            ["finetuned", "distilled", "metrics", "params:evaluate", *_COMMON],
            "quality_benchmark",
            name="benchmark_quality",
        ),
        Node(quality_figure, "quality_benchmark", "quality_figure", name="draw_quality"),
    )
