"""Decoders side by side: ours, its dense form, and the KL autoencoder's, with random weights.

Speed does not depend on the weights. All get the same generic care: channels-last memory, the same dtype, no
gradients.
"""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ssdd.benchmarking.cost import Work, count_work, peak_memory
from ssdd.benchmarking.dense_decoder import DenseForm
from ssdd.benchmarking.timing import time_sides
from ssdd.parameters import DecodeSweep, Side
from ssdd.progress import bar
from ssdd_decoder import Decoder

KL_CHANNELS, KL_DOWNSCALE = 4, 8


def measure_decoding(
    sweeps: tuple[DecodeSweep, ...], machine: dict[str, Any], progress: bool = True
) -> list[dict[str, Any]]:
    """One row per combination and side, with the ratio of its time to ours (the first side's).

    Args:
        sweeps: what to measure.
        machine: from `describe_machine`, for the fraction of the best possible speed.
        progress: whether to show a bar.
    """
    device = torch.device(machine["kind"])
    cases = [case for sweep in sweeps for case in _cases(sweep)]
    rows = []
    with bar("decoding", sum(sweep.rounds for sweep, *_ in cases), progress) as advance:
        for sweep, size, dtype, pixels, batch, steps in cases:
            torch.compiler.reset()  # else later shapes are dynamic ones, and after eight nothing is compiled any more
            sides = make_sides(sweep.sides, size, getattr(torch, dtype), pixels, batch, steps, device)
            timings = time_sides(sides, sweep.sides[0], sweep.rounds, device, advance)
            case = {"size": size, "pixels": pixels, "batch": batch, "steps": steps, "dtype": dtype}
            for side, timing in timings.items():
                work, peak = count_work(sides[side]), peak_memory(sides[side], device)
                figures = timing.summary()
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
                        "rounds": sweep.rounds,
                    }
                )
            del sides
            gc.collect()
    return rows


def best_seconds(work: Work, dtype: str, machine: dict[str, Any]) -> float:
    """The time below which the machine cannot do this work: its products, or its traffic, at the measured rates."""
    return max(work.flops / machine["product_rate"][dtype], work.bytes / machine["copy_bandwidth"])


def make_sides(
    names: tuple[Side, ...],
    size: str,
    dtype: torch.dtype,
    pixels: int,
    batch: int,
    steps: int,
    device: torch.device,
) -> dict[str, Callable[[], Tensor]]:
    """What decodes latents into images of the same size, by name."""
    generator = torch.Generator().manual_seed(0)
    sides: dict[str, Callable[[], Tensor]] = {}
    if any(not name.startswith("kl") for name in names):
        decoder = Decoder(size).to(device, dtype).to(memory_format=torch.channels_last).eval()
        cells = pixels // decoder.config.downscale
        z = torch.randn(batch, decoder.config.latent_channels, cells, cells, generator=generator).to(device)
        noise = torch.randn(batch, 3, pixels, pixels, generator=generator).to(device)
        ours = {
            "ssdd": partial(decoder.decode, z, steps, noise),
            "ssdd_compiled": partial(decoder.decode, z, steps, noise, compile=True),
            "dense": partial(DenseForm(decoder).decode, z, steps, noise),
        }
        sides |= {name: ours[name] for name in names if name in ours}
    if any(name.startswith("kl") for name in names):
        decoder_of_kl = kl_decoder().to(device, dtype).to(memory_format=torch.channels_last).eval()
        cells = pixels // KL_DOWNSCALE
        latent = torch.randn(batch, KL_CHANNELS, cells, cells, generator=generator).to(device, dtype)
        kl = {
            "kl": partial(_without_gradient, decoder_of_kl, latent),
            "kl_compiled": partial(_without_gradient, torch.compile(decoder_of_kl), latent),
        }
        sides |= {name: kl[name] for name in names if name in kl}
    return {name: sides[name] for name in names}


def kl_decoder() -> nn.Module:
    """The decoder of Stable Diffusion (Rombach et al., 2022), as diffusers builds it, with random weights."""
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


def _cases(sweep: DecodeSweep) -> Iterator[tuple[DecodeSweep, str, str, int, int, int]]:
    for size, dtype, pixels, batch, steps in product(
        sweep.sizes, sweep.dtypes, sweep.pixels, sweep.batch_sizes, sweep.steps
    ):
        yield sweep, size, dtype, pixels, batch, steps
