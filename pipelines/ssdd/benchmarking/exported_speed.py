"""Decoders as exported files in onnxruntime and OpenVINO, against the same decoders in PyTorch; speed and loss.

Each decoder is exported as `ssdd export` does it, and all sides of all decoders alternate in one process. OpenVINO gets
the size of the images beforehand.
"""

# B batch (here 1), C latent channels, h w latent cells, P side of an image in pixels

import logging
import math
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ssdd.benchmark_parameters import ExportedSide, ExportedSweep
from ssdd.benchmarking.exported_decoders import ExportedDecoder, open_exported
from ssdd.benchmarking.int8_weights import compute_int8, store_int8
from ssdd.benchmarking.timing import time_sides
from ssdd.data.embedded_sample import HELD_OUT_PHOTOGRAPHS, canvas
from ssdd.imaging.canvas import pad, picture_noise, to_images
from ssdd.integrations.graph_files import Run, check_target, run_onnx, run_openvino
from ssdd.number_formats import why_slow
from ssdd.progress import Show, bar
from ssdd_metrics import to_uint8
from ssdd_metrics.pixelwise import psnr

CPU = torch.device("cpu")
EXTRAS = {"onnxruntime": ("onnx",), "openvino": ("onnx", "openvino")}

Row = dict[str, Any]


class _Files:
    """The exported files of decoders, each written when it is first asked for.

    Args:
        folder: gets them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.decoder = cache(open_exported)
        self.float32 = cache(lambda name: self.decoder(name).export(folder))
        self.int8 = cache(partial(self._changed, store_int8))
        self.dynamic = cache(partial(self._changed, compute_int8))

    def _changed(self, change: Callable[[Path, Path], None], name: str) -> Path:
        change(self.float32(name), target := self.folder / f"{name}.{change.__name__}.onnx")
        return target


def measure_exported(sweeps: tuple[ExportedSweep, ...], threads: int, progress: Show = True) -> list[Row]:
    """Returns one row per sweep, size of images, decoder and side.

    Args:
        sweeps: the cases.
        threads: of each runtime.
        progress: the display of the progress.

    Returns:
        rows with `decoder`, `pixels`, `side`, `seconds` and `ratio` (over the first side of the first decoder) with
        their quartiles, `file_bytes` (NaN in PyTorch), `loss` (dB of PSNR against the first side, on photographs; NaN
        for random weights), and `rounds`. A side whose runtime is not installed has the reason in `missing`, and NaN.
    """
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ssdd-exported-") as folder:
        files = _Files(Path(folder))
        rounds = sum(sweep.rounds * len(sweep.pixels) for sweep in sweeps)
        with bar("exported decoders", rounds, progress, "rounds") as advance:
            for sweep in sweeps:
                for pixels in sweep.pixels:
                    rows += _measure_case(sweep, pixels, files, threads, advance)
    return rows


def _measure_case(
    sweep: ExportedSweep, pixels: int, files: _Files, threads: int, advance: Callable[[int], None]
) -> list[Row]:
    torch.compiler.reset()  # as in `decoder_speed`: each size is compiled for itself
    missing = {side: reason for side in sweep.sides if (reason := _missing(side))}
    for reason in dict.fromkeys(missing.values()):
        logging.getLogger(__name__).warning("left out: %s", reason)
    runs: dict[tuple[str, ExportedSide], Run] = {}
    calls: dict[str, Callable[[], object]] = {}
    for name in sweep.decoders:
        decoder = files.decoder(name)
        cells = pixels // decoder.downscale
        inputs = decoder.graph.draw(1, cells, cells)
        for side in sweep.sides:
            if side not in missing:
                runs[name, side] = _open(side, decoder, files, inputs, threads)
                calls[f"{name} {side}"] = partial(runs[name, side], *inputs)
    timings = time_sides(calls, next(iter(calls)), sweep.rounds, CPU, advance) if calls else {}
    rows = []
    for name in sweep.decoders:
        losses = _losses(files.decoder(name), {s: run for (n, s), run in runs.items() if n == name}, pixels)
        for side in sweep.sides:
            row: Row = {"decoder": name, "pixels": pixels, "side": side, "rounds": sweep.rounds}
            if side in missing:
                row |= {"seconds": math.nan, "missing": missing[side]}
            else:
                row |= timings[f"{name} {side}"].summary()
                row |= {"file_bytes": _size(side, files, name), "loss": losses.get(side, math.nan), "missing": ""}
            rows.append(row)
    return rows


def _missing(side: str) -> str | None:
    """Why a side is not measured here, if so."""
    if side in ("eager_bfloat16", "compiled_bfloat16") and (reason := why_slow(torch.bfloat16, CPU)):
        return reason
    try:
        for target in EXTRAS.get(side.partition("_")[0], ()):
            check_target(target)  # type: ignore[arg-type]
    except ModuleNotFoundError as error:
        return str(error)
    return None


def _file(side: str, files: _Files, name: str) -> Path:
    if side.endswith("_int8"):
        return files.int8(name)
    return files.dynamic(name) if side.endswith("_dynamic") else files.float32(name)


def _size(side: str, files: _Files, name: str) -> float:
    return _file(side, files, name).stat().st_size if side.partition("_")[0] in EXTRAS else math.nan


def _open(side: str, decoder: ExportedDecoder, files: _Files, inputs: tuple[Tensor, ...], threads: int) -> Run:
    if side.startswith("onnxruntime"):
        return run_onnx(_file(side, files, decoder.name), threads)
    if side.startswith("openvino"):
        shapes = {name: tuple(value.shape) for name, value in zip(decoder.graph.inputs, inputs, strict=True)}
        precision = "bf16" if side.endswith("_bfloat16") else "f32"
        return run_openvino(_file(side, files, decoder.name), threads, precision, shapes)
    dtype = torch.bfloat16 if side.endswith("_bfloat16") else torch.float32
    return decoder.in_pytorch(dtype, side.startswith("compiled"))


def _losses(decoder: ExportedDecoder, runs: dict[ExportedSide, Run], pixels: int) -> dict[ExportedSide, float]:
    """Mean PSNR of the first side minus that of each side (dB), on held-out photographs cut to P x P pixels."""
    if decoder.model is None or not runs:
        return {}
    found: dict[ExportedSide, list[float]] = {side: [] for side in runs}
    for name in HELD_OUT_PHOTOGRAPHS:
        square = ImageOps.fit(canvas(name), (pixels, pixels), Image.Resampling.LANCZOS)
        x = to_images([pad(name, square, decoder.downscale)], CPU)
        z, noise = decoder.model.encode(x).mode(), picture_noise(0, [name], (3, *x.shape[2:]))
        for side, run in runs.items():
            (image,) = run(z, noise)
            found[side].append(psnr(*(to_uint8(((y + 1) / 2).clamp(0, 1)) for y in (x, image.float()))).item())
    means = {side: sum(values) / len(values) for side, values in found.items()}
    first = next(iter(means.values()))
    return {side: first - mean for side, mean in means.items()}
