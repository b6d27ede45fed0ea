"""The measurements and their figures as catalog entries."""

from pathlib import Path
from typing import Any

from ssdd.parameters import BenchmarkParameters, EvaluateParameters, RuntimeConfig


def look_at_machine(benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> dict[str, Any]:
    """Names the machine and measures its copy bandwidth and product rates."""
    from ssdd.benchmarking.machine import describe_machine

    dtypes = {str(dtype) for sweep in benchmark.decoding for dtype in sweep.dtypes}
    return describe_machine(_prepare(benchmark, runtime), dtypes)


def benchmark_decoding(machine: dict[str, Any], benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    """Times decoding: one row per size, resolution, batch, steps, dtype and side."""
    import pandas

    from ssdd.benchmarking.decoder_speed import measure_decoding

    _prepare(benchmark, runtime)
    return pandas.DataFrame(measure_decoding(benchmark.decoding, machine, runtime.progress))


def benchmark_training(machine: dict[str, Any], benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    """Times training steps: one row per comparison and side."""
    import pandas

    from ssdd.benchmarking.training_speed import measure_training

    return pandas.DataFrame(measure_training(benchmark.training, _prepare(benchmark, runtime), runtime.progress))


def benchmark_quality(
    finetuned: Path,
    distilled: Path,
    metrics: Any,
    evaluate: EvaluateParameters,
    benchmark: BenchmarkParameters,
    runtime: RuntimeConfig,
) -> Any:
    """Adds to each row of the metrics the speed of that model with that number of steps, at the evaluation's size.

    Args:
        finetuned: the teacher.
        distilled: the student.
        metrics: from the evaluation.
        evaluate: its size.
        benchmark: rounds and threads.
        runtime: the device.
    """
    import torch

    from ssdd.autoencoder import SSDD
    from ssdd.benchmarking.timing import time_sides

    device = _prepare(benchmark, runtime)
    models = {"teacher": finetuned, "student": distilled}
    decoders = {name: SSDD.from_pretrained(file).decoder.to(device) for name, file in models.items()}
    cells = evaluate.im_size // decoders["teacher"].config.downscale
    z = torch.randn(1, decoders["teacher"].config.latent_channels, cells, cells).to(device)
    pairs = [(row["model"], int(row["steps"])) for _, row in metrics.iterrows()]
    sides = {f"{model} {steps}": _decode(decoders[model], z, steps) for model, steps in pairs}
    timings = time_sides(sides, next(iter(sides)), benchmark.quality_rounds, device)
    found = [timing.summary() for timing in timings.values()]
    return metrics.assign(
        seconds=[figures["seconds"] for figures in found],
        seconds_q25=[figures["seconds_q25"] for figures in found],
        seconds_q75=[figures["seconds_q75"] for figures in found],
        images_per_second=[1 / figures["seconds"] for figures in found],
    )


def draw_speed(decoding: Any) -> Any:
    """Draws time and memory over the resolution."""
    from ssdd.benchmarking.benchmark_figures import speed_figure

    return speed_figure(decoding)


def draw_quality(quality: Any) -> Any:
    """Draws quality over speed: a point per model and number of steps."""
    from ssdd.benchmarking.benchmark_figures import quality_figure

    return quality_figure(quality)


def write_tables(machine: dict[str, Any], decoding: Any, training: Any) -> str:
    """Writes all figures as one Markdown page."""
    from ssdd.benchmarking.performance_page import performance_page

    return performance_page(machine, decoding, training)


def _prepare(benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    import psutil
    import torch

    from ssdd.processes import choose_device

    torch.set_num_threads(benchmark.threads or psutil.cpu_count(logical=False) or 1)  # earlier stages set their own
    return choose_device(runtime.device)


def _decode(decoder: Any, z: Any, steps: int) -> Any:
    return lambda: decoder.decode(z, steps)
