"""Encoder or decoder as a file for other runtimes: ONNX, OpenVINO, PyTorch's exported program; checked against it."""

# B batch, C latent channels, F down-scale, h w latent cells, H = h F, W = w F pixels

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.diffusers_encoders import DiffusersEncoder
from ssdd.integrations.export_forms import DecoderForm, EncoderForm
from ssdd.integrations.graph_files import RUNNERS, SUFFIXES, WRITERS, Graph, Run, Target
from ssdd_decoder import Decoder, DecoderConfig

Part = Literal["encoder", "decoder"]
TOLERANCE = 1e-4  # of the largest difference between the file and the model, in float32
CHECKED = ((1, 5, 9), (2, 12, 7), (3, 16, 16))  # batch and latent cells; another size is traced


def export_part(
    model: SSDD,
    target: Target,
    part: Part,
    folder: str | os.PathLike[str],
    *,
    steps: int = 1,
    seed: int | None = None,
    record: dict[str, Any] | None = None,
) -> tuple[Path, float]:
    """Writes one part of a model for another runtime, and compares the file's results with the model's.

    The decoder takes latents `z` (B, C, h, w) and `noise` (B, 3, H, W), and gives the `image` (B, 3, H, W). The encoder
    takes an `image` and gives `mean` and `logvar` of the posterior. Batch, height and width are free.

    Args:
        model: in float32, on the CPU.
        target: the format.
        part: the network.
        folder: gets `<part>.onnx`, `<part>.xml` and `<part>.bin`, or `<part>.pt2`.
        steps: of the decoder.
        seed: of the decoder's noise, which the file then holds (256 x 256 pixels, repeated) instead of an input.
        record: origin of the model, for the file, which also carries configuration and scaling.

    Returns:
        the file, and the largest difference between its results and the model's, at three sizes that it was not traced
        with. It is left out if that is more than 1e-4.

    Raises:
        ValueError: the results differ, or the part cannot be exported.
        ModuleNotFoundError: the format needs an extra that is not installed.
    """
    graph = _encoder(model) if part == "encoder" else decoder_graph(model.decoder, steps, seed)
    content = {
        "part": part,
        "config": asdict(getattr(model, part).config),
        "scaling": asdict(model.scaling) if model.scaling else None,
        **({"steps": steps, "noise_seed": seed} if part == "decoder" else {}),
        **(record or {}),
    }
    return export_graph(graph, target, folder, part, traced_cells(model.decoder.config), content)


def export_graph(
    graph: Graph, target: Target, folder: str | os.PathLike[str], name: str, cells: int, content: dict[str, Any]
) -> tuple[Path, float]:
    """Writes a graph for another runtime and checks it, see `export_part`.

    Args:
        graph: the network.
        target: the format.
        folder: gets the file or files.
        name: of the file, without suffix.
        cells: least side, in latent cells, of the example that is traced.
        content: JSON for the file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Written and checked aside, so that no file that failed stays behind.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".tmp") as aside, quiet():
        file = Path(aside) / f"{name}{SUFFIXES[target]}"
        WRITERS[target](_traced(graph, cells), graph, file, json.dumps(content, sort_keys=True))
        difference = largest_difference(graph, RUNNERS[target](file))
        if not difference <= TOLERANCE:
            raise ValueError(f"the exported {name} differs by {difference:.2g} from the model: expected {TOLERANCE:g}")
        for made in Path(aside).iterdir():
            os.replace(made, folder / made.name)
    return folder / file.name, difference


def largest_difference(graph: Graph, run: Run) -> float:
    """Returns the largest difference between the model's results and a file's, over three sizes."""
    worst = 0.0
    for batch, h, w in CHECKED:
        inputs = graph.draw(batch, h, w)
        with torch.no_grad():
            expected = graph.eager(*inputs)
        for a, b in zip(expected, run(*inputs), strict=True):
            worst = max(worst, (a - b).abs().max().item() if a.shape == b.shape else float("inf"))
    return worst


def decoder_graph(decoder: Decoder, steps: int = 1, seed: int | None = None) -> Graph:
    """The graph of a decoder, see `export_part`."""
    form, config = DecoderForm(decoder, steps, seed).eval(), decoder.config
    size = (f"{config.downscale}*height", f"{config.downscale}*width")

    def draw(batch: int, h: int, w: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        z = torch.randn(batch, config.latent_channels, h, w, generator=generator)
        shape = (batch, 3, h * config.downscale, w * config.downscale)
        return (z, torch.randn(shape, generator=generator)) if seed is None else (z,)

    def eager(z: Tensor, noise: Tensor | None = None) -> tuple[Tensor, ...]:
        return (decoder.decode(z, steps, form.noise_for(z) if noise is None else noise),)

    inputs: dict[str, tuple[str, ...]] = {"z": ("batch", "channels", "height", "width")}
    if seed is None:
        inputs["noise"] = ("batch", "rgb", *size)
    return Graph(form, eager, draw, inputs, {"image": ("batch", "rgb", *size)})


def _encoder(model: SSDD) -> Graph:
    encoder = model.encoder
    if isinstance(encoder, DiffusersEncoder) and encoder.config.side is not None:
        raise ValueError(f"expected an encoder for any size, got {encoder.config.class_name}: export it with diffusers")
    form, scale = EncoderForm(encoder).eval(), encoder.config.downscale

    def draw(batch: int, h: int, w: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(batch)
        return (torch.rand(batch, 3, h * scale, w * scale, generator=generator) * 2 - 1,)

    def eager(image: Tensor) -> tuple[Tensor, ...]:
        posterior = model.encode(image)
        return posterior.mean, posterior.logvar

    latent = ("batch", "channels", "height", "width")
    image = ("batch", "rgb", f"{scale}*height", f"{scale}*width")
    return Graph(form, eager, draw, {"image": image}, {"mean": latent, "logvar": latent})


def traced_cells(config: DecoderConfig) -> int:
    """The cells that make several tiles of attention each way: what there is one of, a tracer takes for a constant."""
    return 9 * config.patch_size * 2 ** (len(config.widths) - 1) // config.downscale + 2


def _traced(graph: Graph, cells: int) -> Any:
    """Traces a graph with free batch, height and width."""
    import torch.fx.experimental._config

    symbolic: Any = torch.fx.experimental._config
    free = {name: torch.export.Dim(name) for name in ("height", "width")}
    free["batch"] = torch.export.Dim("batch", max=graph.most)

    def dimension(name: str) -> Any:
        factor, _, base = name.rpartition("*")
        return int(factor) * free[base] if factor else free[base]

    shapes = tuple(
        {place: dimension(name) for place, name in enumerate(names) if name not in ("channels", "rgb")}
        for names in graph.inputs.values()
    )
    with torch.no_grad(), symbolic.patch(backed_size_oblivious=True):
        return torch.export.export(graph.form, graph.draw(2, cells + 9, cells + 1), dynamic_shapes=shapes)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporters' notes on their own work from the user."""
    loggers = [logging.getLogger(name) for name in ("", "onnxscript", "onnx_ir", "torch.onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
