"""The speed, memory and size of the decoders of the comparison, alternated in one process."""

# B batch, P side of an image in pixels

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ssdd.baselines import count_parameters
from ssdd.benchmarking.cost import peak_memory
from ssdd.benchmarking.timing import time_sides
from ssdd.evaluation.compared import ComparedDecoder, place
from ssdd.progress import Show, bar


@torch.no_grad()
def measure_decoders(
    decoders: Sequence[ComparedDecoder],
    pixels: Sequence[int],
    batch: int,
    rounds: int,
    device: torch.device,
    progress: Show = True,
) -> list[dict[str, Any]]:
    """Times the decoding of a latent into an image, for each decoder, number of steps and size.

    Args:
        decoders: all of them, in memory at once.
        pixels: sides P; a decoder that does not make images of a size has no row of that size.
        batch: B.
        rounds: timings of each.
        device: of the decoders.
        progress: the display of the progress.

    Returns:
        rows with `model`, `steps`, `pixels`, `parameters` (of the decoder), `seconds` (median of a batch) and its
        quartiles, `images_per_second`, and `peak_bytes` beyond the weights (None where the system does not tell).
    """
    models = {decoder.name: place(decoder.open(), device, torch.float32) for decoder in decoders}
    rows = []
    with bar("decoding speed", rounds * len(pixels), progress, "rounds") as advance:
        for side in pixels:
            calls: dict[tuple[str, int], Any] = {}
            for decoder in decoders:
                calls |= _calls(decoder, models[decoder.name], side, batch, device)
            sides = {f"{name} {steps}": call for (name, steps), call in calls.items()}
            timings = time_sides(sides, next(iter(sides), ""), rounds, device, advance)
            for (name, steps), call in calls.items():
                figures = timings[f"{name} {steps}"].summary()
                rows.append(
                    {
                        "model": name,
                        "steps": steps,
                        "pixels": side,
                        "parameters": count_parameters(decoder_of(models[name].model)),
                        **{key: figures[key] for key in ("seconds", "seconds_q25", "seconds_q75")},
                        "images_per_second": batch / figures["seconds"],
                        "peak_bytes": peak_memory(call, device),
                    }
                )
    return rows


def decoder_of(model: Any) -> torch.nn.Module:
    """Returns the part of a tokenizer that decodes."""
    network = getattr(model, "network", model)  # of diffusers
    return network.decoder_unet if hasattr(network, "decoder_unet") else network.decoder


def _calls(decoder: ComparedDecoder, model: Any, side: int, batch: int, device: torch.device) -> dict[Any, Any]:
    noise = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        z = model.encode(noise.clamp(-1, 1)).mode()  # speed does not depend on the content
        if model.decode(z, 1, noise).shape != noise.shape:
            return {}
    except (ValueError, RuntimeError):  # a size that it does not take
        return {}
    return {(decoder.name, steps): partial(model.decode, z, steps, noise) for steps in decoder.steps}
