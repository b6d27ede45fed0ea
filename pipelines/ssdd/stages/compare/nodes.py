"""The decoders of the comparison on the held-out images, their speed, and their table."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.comparison_parameters import CompareParameters, SpeedParameters
from ssdd.parameters import DataParameters, EvaluateParameters, PretrainedNetworks, RuntimeConfig
from ssdd.reporting.comparison_table import FEED_FORWARD, KL, KL_ADVERSARIAL
from ssdd.stages.evaluation_stage import measurement_of, save_pictures, tables_of

if TYPE_CHECKING:
    from ssdd.evaluation.compared import ComparedDecoder, Kind


def evaluate_kl(
    kl: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Any, list[dict[str, Any]]]:
    """Decodes the held-out images with the KL-VAE's decoder: values per image, and figures."""
    return _evaluate(KL, "kl", kl, index, references, data, evaluate, pretrained_networks, runtime)


def evaluate_kl_adversarial(
    kl_adversarial: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Any, list[dict[str, Any]]]:
    """Does the same with the one that was trained with an adversary."""
    return _evaluate(
        KL_ADVERSARIAL, "kl", kl_adversarial, index, references, data, evaluate, pretrained_networks, runtime
    )


def evaluate_feed_forward(
    feed_forward: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Any, list[dict[str, Any]]]:
    """Does the same with SSDD's network called once."""
    return _evaluate(
        FEED_FORWARD, "feed_forward", feed_forward, index, references, data, evaluate, pretrained_networks, runtime
    )


def evaluate_others(
    index: Any,
    references: Path,
    plan: dict[str, Any],
    data: DataParameters,
    evaluate: EvaluateParameters,
    compare: CompareParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Any, list[dict[str, Any]]]:
    """Does the same with the tokenizers of other projects and with the decoders of other runs, if any are named."""
    import pandas

    from ssdd.evaluation.compared import evaluate_decoder
    from ssdd.processes import is_main

    measurement = measurement_of(index, references, data, evaluate, pretrained_networks, runtime)
    tables = [pandas.DataFrame(columns=["model", "steps", "path", "image"])]
    reports: list[dict[str, Any]] = []
    for decoder in other_decoders(compare, evaluate, plan):
        table, report = tables_of(decoder.name, evaluate_decoder(decoder, measurement), measurement.dataset)
        tables.append(table)
        reports += report
    if not is_main():
        return None, []
    return (pandas.concat(tables[1:], ignore_index=True) if tables[1:] else tables[0]), reports


def other_decoders(
    compare: CompareParameters, evaluate: EvaluateParameters, plan: dict[str, Any]
) -> list["ComparedDecoder"]:
    """Returns the named tokenizers by the names of their folders, and teacher and student of the named runs.

    All get the copies of the images that this run's encoder gets. A name says where a decoder enlarges otherwise.

    Raises:
        ValueError: a run has neither teacher nor student.
    """
    from ssdd.autoencoder import SSDD
    from ssdd.evaluation.compared import ComparedDecoder
    from ssdd.runs import run_folder

    times = plan["decoder"]["upscale"]
    found = [
        ComparedDecoder(
            f"{Path(item.source).name or item.source}{_resized(1, times)}", "diffusers", item.source, times=times
        )
        for item in compare.tokenizers
    ]
    for item in compare.runs:
        folder = run_folder(Path.cwd(), item.run) / "models"
        files = {"teacher": folder / "finetuned.safetensors", "student": folder / "distilled.safetensors"}
        steps = {"teacher": evaluate.teacher_steps, "student": evaluate.student_steps}
        there = [name for name, file in files.items() if file.is_file()]
        if not there:
            raise ValueError(f"compare.runs: expected a teacher or a student of the run {item.run!r} in {folder}")
        for name in there:
            decoder = SSDD.config_of(files[name])[1]
            title = f"{item.run}: {name}{_resized(decoder.upscale if decoder else 1, times)}"
            found.append(ComparedDecoder(title, "ssdd", str(files[name]), steps[name], times))
    return found


def _resized(upscale: int, times: int) -> str:
    """Says how a decoder that enlarges `upscale` times becomes a row beside those that do it `times` times."""
    if upscale == times:
        return ""
    return f", resized by {times // upscale}" if upscale < times else f", enlarging by {upscale}"


def decode_compared(
    photographs: Path, kl: Path, kl_adversarial: Path | None, feed_forward: Path, runtime: RuntimeConfig
) -> Path:
    """Decodes the whole photographs of the evaluation with the decoders of the comparison: uint8 (3, H, W) by name."""
    from safetensors.torch import load_file

    from ssdd.evaluation.compared_photographs import decode_again

    decoders = [_decoder(*item) for item in _own_decoders(kl, kl_adversarial, feed_forward)]
    return save_pictures("compared_photographs", decode_again(load_file(photographs), decoders, runtime))


def measure_speed(
    finetuned: Path,
    distilled: Path,
    kl: Path,
    kl_adversarial: Path | None,
    feed_forward: Path,
    plan: dict[str, Any],
    evaluate: EvaluateParameters,
    compare: CompareParameters,
    speed: SpeedParameters,
    runtime: RuntimeConfig,
) -> Any:
    """Times all decoders of the table at the evaluated size and at the given ones: a row for each of them and size."""
    import pandas

    from ssdd.benchmarking.compared_speed import measure_decoders
    from ssdd.benchmarking.machine import prepare_device
    from ssdd.evaluation.compared import ComparedDecoder

    device = prepare_device(runtime.device, speed.threads)
    decoders = [
        ComparedDecoder("teacher", "ssdd", str(finetuned), evaluate.teacher_steps),
        ComparedDecoder("student", "ssdd", str(distilled), evaluate.student_steps),
        *(_decoder(*item) for item in _own_decoders(kl, kl_adversarial, feed_forward)),
        *other_decoders(compare, evaluate, plan),
    ]
    pixels = sorted({evaluate.im_size, *speed.pixels})
    rows = measure_decoders(decoders, pixels, speed.batch_size, speed.rounds, device, runtime.display)
    return pandas.DataFrame(rows)


def _own_decoders(kl: Path, kl_adversarial: Path | None, feed_forward: Path) -> list[tuple[str, "Kind", Path]]:
    adversarial: list[tuple[str, Kind, Path]] = [(KL_ADVERSARIAL, "kl", kl_adversarial)] if kl_adversarial else []
    return [(KL, "kl", kl), *adversarial, (FEED_FORWARD, "feed_forward", feed_forward)]


def _decoder(name: str, kind: "Kind", file: Path) -> "ComparedDecoder":
    from ssdd.evaluation.compared import ComparedDecoder

    return ComparedDecoder(name, kind, str(file))


def _evaluate(
    name: str,
    kind: "Kind",
    file: Path,
    index: Any,
    references: Path,
    data: DataParameters,
    evaluate: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Any, list[dict[str, Any]]]:
    from ssdd.evaluation.compared import evaluate_decoder

    measurement = measurement_of(index, references, data, evaluate, pretrained_networks, runtime)
    return tables_of(name, evaluate_decoder(_decoder(name, kind, file), measurement), measurement.dataset)
