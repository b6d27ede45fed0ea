"""A loss or gradient that is not finite: found at its first step, and written to a file that reproduces it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ssdd.files import atomic_write
from ssdd.processes import choose_device
from ssdd.training.interface import TrainingStep
from ssdd.training.resume_state import restore_tensors
from ssdd.training.sealed import write_safetensors

SHOWN_PATHS = 10
LAST = ("loss", "gradient_norm")


class NotFiniteError(FloatingPointError):
    """A loss or the gradient became NaN or infinite."""


def first_bad(terms: Mapping[str, float]) -> str | None:
    """Returns the name of the first value that is NaN or infinite: parts, then their sum, then its gradient.

    If a part is not finite, the sum is not finite either, and only the name of the part identifies the loss.
    """
    order = sorted(terms, key=lambda name: LAST.index(name) if name in LAST else -1)
    return next((name for name in order if not math.isfinite(terms[name])), None)


def replay(file: Path, step: TrainingStep, device: str | None = None) -> dict[str, float]:
    """Computes the losses and the gradient's norm of a failed step once more, in the precision it had.

    `replay(file, build_step(job, build_model(job)))` with the job that failed (both from `ssdd.training.jobs`).

    Args:
        file: written by `report`.
        step: a fresh step module like the one that failed; it gets the file's weights. Pretrained networks are not
            in the file: they stay as they were loaded, since their own files are checked by hash.
        device: `cpu` or `cuda`; None: that of the failed step, since another kind of device draws other noise.

    Returns:
        the losses by name, `loss` being their sum, and `gradient_norm`; `discriminator` alone if that was the value
        that was not finite. The values of the failed step itself are `terms` in the file's header.

    Raises:
        ValueError: the step is of other networks, or the device is not there.
    """
    with safe_open(file, framework="pt") as opened:
        story = json.loads(opened.metadata()["failure"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    try:
        place = choose_device(device or story["device"])
    except ValueError as error:
        raise ValueError(f"{error}. The failed step had one: device='cpu' computes it with other noise") from error
    batch: dict[str, Any] = {k.removeprefix("batch."): v.to(place) for k, v in tensors.items() if k[:6] == "batch."}
    saved = {name: value for name, value in tensors.items() if not name.startswith("batch.")}
    restore_tensors(_weights(step), saved, "build the step from the job that failed")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(story.get("config", {}).get("precision"))
    step.to(place).train()
    adversary = None if step.adversary is None else step.adversary.to(place).train()
    with torch.autocast(place.type, dtype, enabled=dtype is not None):
        if adversary is not None and story["not_finite"] == "discriminator":
            return {"discriminator": adversary(batch).item()}
        losses = step(batch | {"path": story["paths"]}, story["step"])
    losses.total.backward()
    norm = nn.utils.clip_grad_norm_([p for p in step.parameters() if p.requires_grad], math.inf)
    values = {"loss": losses.total, **losses.terms, "gradient_norm": norm}
    return {name: value.item() for name, value in values.items()}


def _weights(step: TrainingStep) -> dict[str, Tensor]:
    """Returns the weights that decide a loss: those of all networks, trained or frozen, except the pretrained ones."""
    own = {k: v for k, v in step.state_dict().items() if k.partition(".")[0] not in step.pretrained_children}
    found = {f"network.{k}": v for k, v in own.items()}
    if step.adversary is not None:
        found |= {f"adversary.{k}": v for k, v in step.adversary.state_dict().items()}
    return found


def report(
    name: str,
    step: int,
    batch: Mapping[str, Any],
    terms: Mapping[str, float],
    network: TrainingStep,
    folder: Path,
    rank: int = 0,
    about: Mapping[str, Any] | None = None,
) -> NotFiniteError:
    """Writes the reproduction file and returns the error to raise, which names the file or says why there is none.

    The file holds the batch's tensors (`batch.*`), the weights of all networks except the pretrained ones
    (`network.*`, `adversary.*`), all from before the failed step, and, in its header, step, losses, paths, device and
    `about` as JSON.

    Args:
        name: the value that is not finite.
        step: the step that was under way, counted from 0 as the draws are keyed.
        batch: of the data loader, on this process; for the discriminator, its own input.
        terms: every loss of the step on this process.
        network: the step module.
        folder: where to write.
        rank: this process.
        about: configuration and fingerprint, to find the run again.
    """
    paths = [str(path) for path in batch.get("path", [])]
    tensors = {f"batch.{k}": v for k, v in batch.items() if isinstance(v, torch.Tensor)}
    device = next(iter(tensors.values())).device.type
    tensors |= _weights(network)
    story = {"step": step, "rank": rank, "not_finite": name, "terms": dict(terms), "paths": paths, "device": device}
    story |= dict(about or {})
    target = folder / f"failure-step-{step:08d}-rank-{rank}.safetensors"
    try:
        with atomic_write(target) as path:
            copies = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            write_safetensors(copies, path, {"failure": json.dumps(story)})
        kept = f"{target} holds batch and weights (ssdd.training.nonfinite.replay computes the losses again)"
    except OSError as error:  # a full disk must not hide what happened
        kept = f"batch and weights could not be written ({error})"
    shown = ", ".join(paths[:SHOWN_PATHS]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")
    return NotFiniteError(
        f"{name} is not finite ({terms.get(name)}) in step {step} (rank {rank}); images: {shown}. The last good "
        f"checkpoint is kept; {kept}. Lower the learning rate, leave out the images, or use precision 'no' or 'bf16'"
    )
