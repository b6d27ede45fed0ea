"""Training steps side by side: SSDD, compiled or not, its dense form, checkpointing, live and cached distillation."""

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ssdd.benchmark_parameters import TrainingSweep
from ssdd.benchmarking.cost import count_work, held_memory, peak_memory
from ssdd.benchmarking.timing import time_sides
from ssdd.integrations.dense_decoder import DenseForm
from ssdd.number_formats import without_slow
from ssdd.progress import Show, bar
from ssdd_decoder import Decoder
from ssdd_decoder.distill import distillation_loss, teacher_target
from ssdd_decoder.flow import interpolate
from ssdd_decoder.losses import flow_matching_loss


def measure_training(sweep: TrainingSweep, device: torch.device, progress: Show = True) -> list[dict[str, Any]]:
    """Returns one row per dtype, comparison and side, with the ratio of its time to the first side's."""
    # Checkpointing pays if activations fill the memory, and distillation is expensive because of the teacher's steps.
    # Therefore each comparison has its own size.
    comparisons = [
        ("step", sweep.pixels, sweep.batch_size, sweep.sides),
        ("checkpointing", sweep.checkpointing_pixels, sweep.checkpointing_batch_size, ("kept", "checkpointed")),
        ("distillation", sweep.distillation_pixels, sweep.distillation_batch_size, ("live", "cached")),
    ]
    rows = []
    dtypes = without_slow(sweep.dtypes, device)
    with bar("training steps", sweep.rounds * len(comparisons) * len(dtypes), progress, "rounds") as advance:
        for dtype, (comparison, pixels, batch, names) in product(dtypes, comparisons):
            torch.compiler.reset()  # as in `decoder_speed`: each size is compiled for itself
            losses, finish = make_losses(sweep, dtype, pixels, batch, device)
            steps = {name: compose(finish, losses[name]) for name in names}
            timings = time_sides(steps, names[0], sweep.rounds, device, advance)
            case = {"comparison": comparison, "size": sweep.size, "pixels": pixels, "batch": batch, "dtype": dtype}
            for name, timing in timings.items():
                # The loss alone, since the backward pass frees the activations that it is about.
                held, peak = held_memory(losses[name], device), peak_memory(steps[name], device)
                work = count_work(steps[name])
                cost = {"flops": work.flops, "bytes": work.bytes, "held_bytes": held, "peak_bytes": peak}
                rows.append({**case, "side": name, **timing.summary(), **cost, "rounds": sweep.rounds})
    return rows


def make_losses(
    sweep: TrainingSweep, dtype_name: str, pixels: int, batch: int, device: torch.device
) -> tuple[dict[str, Callable[[], Tensor]], Callable[[Tensor], Tensor]]:
    """Returns losses by name, with the teacher's targets of `cached` computed already, and the rest of a step."""
    dtype = getattr(torch, dtype_name)
    generator = torch.Generator().manual_seed(0)
    decoder, teacher = (
        Decoder(sweep.size).to(device, dtype).to(memory_format=torch.channels_last) for _ in ("student", "teacher")
    )
    teacher.eval().requires_grad_(False)
    cells = pixels // decoder.config.downscale
    x, noise = torch.randn(2, batch, 3, pixels, pixels, generator=generator).to(device, dtype).unbind()
    x, noise = (each.contiguous(memory_format=torch.channels_last) for each in (x, noise))
    z = torch.randn(batch, decoder.config.latent_channels, cells, cells, generator=generator).to(device, dtype)
    t = torch.rand(batch, generator=generator).to(device)
    x_t = interpolate(x, noise, t.to(dtype))
    dense, compiled = DenseForm(decoder), torch.compile(decoder)
    # All sides share the decoder; at this rate a step hardly moves it, so that none of them ends in NaN.
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-6)
    target = teacher_target(teacher, z, noise, steps=1).to(dtype)

    def flow(network: Callable[..., Tensor], checkpointing: bool = False) -> Tensor:
        decoder.gradient_checkpointing = checkpointing
        return flow_matching_loss(network(x_t, t, z), x, noise)

    def live() -> Tensor:
        wanted = teacher_target(teacher, z, noise, sweep.teacher_steps).to(dtype)
        return distillation_loss(decoder, z, noise, wanted).loss

    def finish(loss: Tensor) -> Tensor:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = {
        "ssdd": lambda: flow(decoder),
        "ssdd_compiled": lambda: flow(compiled),
        "dense": lambda: flow(dense),
        "kept": lambda: flow(decoder),
        "checkpointed": lambda: flow(decoder, checkpointing=True),
        "live": live,
        "cached": lambda: distillation_loss(decoder, z, noise, target).loss,
    }
    return losses, finish


def compose(last: Callable[[Tensor], Tensor], first: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Returns a function that calls `last` with the result of `first`."""
    return lambda: last(first())
