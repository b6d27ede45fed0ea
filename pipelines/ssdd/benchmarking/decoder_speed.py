"""Decoders side by side: SSDD, its dense form, and the KL autoencoder's, with random weights.

Speed does not depend on the weights. All decoders get the same generic care: channels-last memory, the same dtype, no
gradients. Sides named `recorded` are replayed as a CUDA graph.
"""

import gc
import logging
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.benchmark_parameters import DecodeSweep, Side
from ssdd.benchmarking.cost import Work, count_work, peak_memory
from ssdd.benchmarking.served_kl import ServedKL
from ssdd.benchmarking.timing import time_sides
from ssdd.integrations.dense_decoder import DenseForm
from ssdd.progress import Show, bar
from ssdd_decoder import Decoder
from ssdd_decoder.gpu import without_kernels
from ssdd_decoder.recording import record

KL_CHANNELS, KL_DOWNSCALE = 4, 8


def measure_decoding(
    sweeps: tuple[DecodeSweep, ...], machine: dict[str, Any], progress: Show = True
) -> list[dict[str, Any]]:
    """Returns one row per combination and side, with the ratio of its time to the first side's.

    Args:
        sweeps: the combinations.
        machine: from `describe_machine`, for the fraction of the best possible speed; dtypes without a rate are left
            out.
        progress: the display of the progress.
    """
    device = torch.device(machine["kind"])
    cases = [
        (sweep, *case)
        for sweep in sweeps
        for case in product(sweep.sizes, sweep.dtypes, sweep.pixels, sweep.batch_sizes, sweep.steps)
        if case[1] in machine["product_rate"]
    ]
    rows = []
    with bar("decoding", sum(sweep.rounds for sweep, *_ in cases), progress, "rounds") as advance:
        for sweep, size, dtype, pixels, batch, steps in cases:
            case = {"size": size, "pixels": pixels, "batch": batch, "steps": steps, "dtype": dtype}
            try:
                rows += _measure_case(case, sweep, machine, device, advance)
            except torch.OutOfMemoryError:  # the others are measured all the same
                logging.getLogger(__name__).warning("left out, since the device's memory is too small: %s", case)
            gc.collect()
    return rows


def _measure_case(
    case: dict[str, Any],
    sweep: DecodeSweep,
    machine: dict[str, Any],
    device: torch.device,
    advance: Callable[[int], None],
) -> list[dict[str, Any]]:
    # Without it, later shapes would be compiled as dynamic ones, and nothing more after the eighth.
    torch.compiler.reset()
    size, dtype, pixels, batch, steps = (case[name] for name in ("size", "dtype", "pixels", "batch", "steps"))
    plain = {side: side.removesuffix("_recorded") for side in sweep.sides}
    names: Any = tuple(dict.fromkeys([*sweep.sides, *plain.values()]))
    everything = make_sides(names, size, getattr(torch, dtype), pixels, batch, steps, device)
    sides: dict[str, Callable[[], Tensor]] = {name: everything[name] for name in sweep.sides}
    timings = time_sides(sides, sweep.sides[0], sweep.rounds, device, advance)
    rows = []
    for side in sweep.sides:
        # A replay calls no operators, nor do the GPU kernels: counted are PyTorch's operators of the same work.
        with without_kernels():
            work = count_work(everything[plain[side]])
        # A recorded decode keeps its memory between calls: a peak beyond it says nothing.
        peak = None if side.endswith("_recorded") else peak_memory(sides[side], device)
        figures = timings[side].summary()
        rows.append(
            {
                **case,
                "side": side,
                **figures,
                "images_per_second": batch / figures["seconds"],
                "flops": work.flops,
                "bytes": work.bytes,
                "peak_bytes": peak,
                "roofline": best_seconds(work, dtype, machine) / figures["seconds"],
                "finite": bool(sides[side]().isfinite().all()),
                "rounds": sweep.rounds,
            }
        )
    return rows


def best_seconds(work: Work, dtype: str, machine: dict[str, Any]) -> float:
    """Returns the least time for this work: its products or its traffic at the measured rates, whichever is longer.

    On a GPU, the products alone: its kernels fuse operators, and the traffic of each by itself would be no limit.
    """
    products = work.flops / machine["product_rate"][dtype]
    return products if machine["kind"] == "cuda" else max(products, work.bytes / machine["copy_bandwidth"])


def make_sides(
    names: tuple[Side, ...],
    size: str,
    dtype: torch.dtype,
    pixels: int,
    batch: int,
    steps: int,
    device: torch.device,
) -> dict[str, Callable[[], Tensor]]:
    """Returns functions that decode latents into images of the same size, by name."""
    generator = torch.Generator().manual_seed(0)
    sides: dict[str, Callable[[], Tensor]] = {}
    # A network that no side uses is not built: its weights would take memory from the others.
    if any(not name.startswith("kl") for name in names):
        sides |= _ssdd_sides(size, dtype, pixels, batch, steps, device, generator)
    if any(name.startswith("kl") for name in names):
        sides |= _kl_sides(dtype, pixels, batch, device, generator)
    return {name: sides[name] for name in names}


def _ssdd_sides(
    size: str, dtype: torch.dtype, pixels: int, batch: int, steps: int, device: torch.device, generator: torch.Generator
) -> dict[str, Callable[[], Tensor]]:
    # One decoder for all sides, so that they differ in the computation alone.
    decoder = fill(Decoder(size)).to(device, dtype).to(memory_format=torch.channels_last).eval()
    cells = pixels // decoder.config.downscale
    z = torch.randn(batch, decoder.config.latent_channels, cells, cells, generator=generator).to(device)
    noise = torch.randn(batch, 3, pixels, pixels, generator=generator).to(device)
    recorded = cache(lambda: decoder.record(z, steps))  # at the first call: it keeps memory
    return {
        "ssdd": partial(decoder.decode, z, steps, noise),
        "ssdd_compiled": partial(decoder.decode, z, steps, noise, compile=True),
        "ssdd_recorded": lambda: recorded()(z, noise),
        "dense": partial(DenseForm(decoder).decode, z, steps, noise),
    }


def _kl_sides(
    dtype: torch.dtype, pixels: int, batch: int, device: torch.device, generator: torch.Generator
) -> dict[str, Callable[[], Tensor]]:
    decoder = kl_decoder().to(device, dtype).to(memory_format=torch.channels_last).eval()
    served = ServedKL(decoder[0], decoder[1])
    cells = pixels // KL_DOWNSCALE
    z = torch.randn(batch, KL_CHANNELS, cells, cells, generator=generator).to(device, dtype)
    recorded = cache(lambda: record(partial(_without_gradient, served), z))
    return {
        "kl": partial(_without_gradient, decoder, z),
        "kl_compiled": partial(_without_gradient, torch.compile(decoder), z),
        "kl_served": partial(_without_gradient, served, z),
        "kl_served_recorded": lambda: recorded()(z),
    }


@torch.no_grad()
def fill(decoder: Decoder) -> Decoder:
    """Draws the weights that start at zero: otherwise no activation would pass through most layers."""
    for weight in decoder.parameters():
        if not weight.any():
            weight.normal_(std=0.02)
    return decoder


def kl_decoder() -> nn.Sequential:
    """Builds the decoder of Stable Diffusion (Rombach et al., 2022), by diffusers, with random weights."""
    # Imported here, since it takes seconds and a sweep without this side has no use for it.
    from diffusers import AutoencoderKL

    autoencoder: Any = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=KL_CHANNELS,
        norm_num_groups=32,
    )
    return nn.Sequential(autoencoder.post_quant_conv, autoencoder.decoder)


@torch.no_grad()
def _without_gradient(network: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return network(z)
