"""The decoders of the benchmark of exported files: each in PyTorch, and as a graph for other runtimes."""

# B batch, C latent channels, h w latent cells, F down-scale

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.benchmarking.decoder_speed import KL_CHANNELS, KL_DOWNSCALE, fill, kl_decoder
from ssdd.integrations.exported_graphs import decoder_graph, export_graph, traced_cells
from ssdd.integrations.graph_files import Graph, Run
from ssdd.packaged import NAMES
from ssdd_decoder import Decoder

KL = "kl"
KL_BATCH = 63  # images at most: diffusers' upsampling has a branch for more


@dataclass(frozen=True)
class ExportedDecoder:
    """A decoder that decodes in one step.

    Args:
        name: its size, or `kl`.
        graph: to be exported.
        cells: see `export_graph`.
        downscale: F.
        in_pytorch: dtype and whether to compile -> the decoder in PyTorch, channels last.
        model: of which it is a part, if its weights are trained.
    """

    name: str
    graph: Graph
    cells: int
    downscale: int
    in_pytorch: Callable[[torch.dtype, bool], Run]
    model: SSDD | None = None

    def export(self, folder: Path) -> Path:
        """Writes it as an ONNX file, as `ssdd export` does."""
        return export_graph(self.graph, "onnx", folder, self.name, self.cells, {"decoder": self.name})[0]


def open_exported(name: str) -> ExportedDecoder:
    """Opens a decoder by its size: a packaged model's with its weights, others with random ones."""
    if name == KL:
        return _kl()
    model = SSDD.from_pretrained(name) if name in NAMES else None
    decoder = model.decoder if model else fill(Decoder(name)).eval()

    def in_pytorch(dtype: torch.dtype, compiled: bool) -> Run:
        network = copy.deepcopy(decoder).to(dtype).to(memory_format=torch.channels_last)
        return lambda z, noise: (network.decode(z, 1, noise, compile=compiled),)

    config = decoder.config
    return ExportedDecoder(name, decoder_graph(decoder), traced_cells(config), config.downscale, in_pytorch, model)


def _kl() -> ExportedDecoder:
    network = kl_decoder().eval()

    def draw(batch: int, h: int, w: int) -> tuple[Tensor, ...]:
        return (torch.randn(batch, KL_CHANNELS, h, w, generator=torch.Generator().manual_seed(batch)),)

    def in_pytorch(dtype: torch.dtype, compiled: bool) -> Run:
        own: Any = copy.deepcopy(network).to(dtype).to(memory_format=torch.channels_last)
        called = torch.compile(own) if compiled else own

        @torch.no_grad()
        def run(z: Tensor) -> tuple[Tensor, ...]:
            return (called(z.to(dtype)),)

        return run

    latent = ("batch", "channels", "height", "width")
    image = ("batch", "rgb", f"{KL_DOWNSCALE}*height", f"{KL_DOWNSCALE}*width")
    graph = Graph(network, in_pytorch(torch.float32, False), draw, {"z": latent}, {"image": image}, KL_BATCH)
    return ExportedDecoder(KL, graph, 8, KL_DOWNSCALE, in_pytorch)
