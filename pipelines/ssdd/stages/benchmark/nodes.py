"""The measurements of the benchmark as catalog entries."""

from pathlib import Path
from typing import Any

from ssdd.benchmark_parameters import BenchmarkParameters
from ssdd.parameters import EvaluateParameters, RuntimeConfig


def look_at_machine(benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> dict[str, Any]:
    """Names the machine and measures its copy bandwidth and product rates."""
    from ssdd.benchmarking.machine import describe_machine, prepare_device

    dtypes = {str(dtype) for sweep in benchmark.decoding for dtype in sweep.dtypes}
    return describe_machine(prepare_device(runtime.device, benchmark.threads), dtypes)


def benchmark_decoding(machine: dict[str, Any], benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    """Times decoding: one row per size, resolution, batch, steps, dtype and side."""
    import pandas

    from ssdd.benchmarking.decoder_speed import measure_decoding
    from ssdd.benchmarking.machine import prepare_device

    prepare_device(runtime.device, benchmark.threads)
    return pandas.DataFrame(measure_decoding(benchmark.decoding, machine, runtime.display))


def benchmark_training(machine: dict[str, Any], benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    """Times training steps: one row per comparison and side."""
    import pandas

    from ssdd.benchmarking.machine import prepare_device
    from ssdd.benchmarking.training_speed import measure_training

    # `machine` is an input all the same: another machine makes the timings stale.
    device = prepare_device(runtime.device, benchmark.threads)
    return pandas.DataFrame(measure_training(benchmark.training, device, runtime.display))


def benchmark_scale(machine: dict[str, Any], benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    """Times loading and training steps, with one rank and with several: one row per case."""
    import pandas

    from ssdd.benchmarking.machine import prepare_device
    from ssdd.benchmarking.scale_speed import measure_scale

    prepare_device(runtime.device, benchmark.threads)
    return pandas.DataFrame(measure_scale(benchmark.scale, runtime))


def benchmark_loader(machine: dict[str, Any], benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    """Times the loader on files and packed copies, with exact and fast decoding: one row per case."""
    import pandas

    from ssdd.benchmarking.loader_speed import loader_rate
    from ssdd.benchmarking.machine import prepare_device

    prepare_device(runtime.device, 1)
    scale = benchmark.scale
    return pandas.DataFrame(loader_rate(im_size=scale.pixels, images=scale.photographs, show=runtime.display))


def benchmark_exported(machine: dict[str, Any], benchmark: BenchmarkParameters, runtime: RuntimeConfig) -> Any:
    """Times exported decoders in onnxruntime and OpenVINO, and in PyTorch: one row per decoder, size and side."""
    import pandas
    import torch

    from ssdd.benchmarking.exported_speed import measure_exported
    from ssdd.benchmarking.machine import prepare_device

    prepare_device("cpu", benchmark.threads)
    return pandas.DataFrame(measure_exported(benchmark.exported, torch.get_num_threads(), runtime.display))


def write_scale(machine: dict[str, Any], scale_benchmark: Any) -> str:
    """Writes the table of loading and training as a page."""
    from ssdd.benchmarking.scale_speed import scale_page

    return scale_page(machine, scale_benchmark)


def benchmark_quality(
    finetuned: Path,
    distilled: Path,
    metrics: Any,
    evaluate: EvaluateParameters,
    benchmark: BenchmarkParameters,
    runtime: RuntimeConfig,
) -> Any:
    """Times each evaluated model and number of steps, at the size of the evaluation.

    Args:
        finetuned: the teacher.
        distilled: the student.
        metrics: from the evaluation.
        evaluate: for the size of the images.
        benchmark: rounds and threads.
        runtime: the device.
    """
    from ssdd.benchmarking.machine import prepare_device
    from ssdd.benchmarking.quality_speed import measure_quality

    device = prepare_device(runtime.device, benchmark.threads)
    models = {"teacher": finetuned, "student": distilled}
    return measure_quality(models, metrics, evaluate.im_size, benchmark.quality_rounds, device)
