"""Stops a run at the first loss or gradient that is not a finite number, and leaves what reproduces it."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from ssdd.files import atomic_write
from ssdd.training.state import restore_tensors, trained_tensors, write_safetensors

SHOWN_PATHS = 10


class NotFiniteError(FloatingPointError):
    """A loss or the gradient became NaN or infinite."""


def first_bad(terms: Mapping[str, float]) -> str | None:
    """Returns the name of the first value that is NaN or infinite; parts come before their sum."""
    order = sorted(terms, key=lambda name: name == "loss")
    return next((name for name in order if not math.isfinite(terms[name])), None)


def replay(file: Path, step: nn.Module) -> dict[str, float]:
    """Computes the losses of a failed step once more, on the CPU in float32.

    `replay(file, build_step(job, build_model(job)))` with the job that failed (both from `ssdd.training.jobs`).

    Args:
        file: what `report` left.
        step: a fresh step module like the one that failed; it gets the file's weights. Networks that did not train
            and the discriminator are not in the file: they stay as they are.

    Returns:
        the losses by name, `loss` being the whole; those of the failure itself are `terms` in the file's header.
    """
    with safe_open(file, framework="pt") as opened:
        story = json.loads(opened.metadata()["failure"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    weights = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    batch: dict[str, Any] = {k.removeprefix("batch."): v for k, v in tensors.items() if k.startswith("batch.")}
    restore_tensors(step, weights)
    with torch.no_grad():
        losses = step.train()(batch | {"path": story["paths"]}, story["step"])
    return {name: value.item() for name, value in {"loss": losses.total, **losses.terms}.items()}


def report(
    name: str,
    step: int,
    batch: Mapping[str, Any],
    terms: Mapping[str, float],
    network: nn.Module,
    folder: Path,
    rank: int = 0,
    about: Mapping[str, Any] | None = None,
) -> NotFiniteError:
    """Writes the reproduction file and returns the error to raise.

    The file holds the batch's tensors (`batch.*`), the trained weights before the step (`network.*`) and, in its
    header, step, losses, paths and `about` as JSON.

    Args:
        name: the value that is not finite.
        step: the step that was under way, counted from 0 as the draws are keyed.
        batch: what the data loader yielded on this process.
        terms: every loss of the step on this process.
        network: the step module.
        folder: where to write.
        rank: this process.
        about: configuration and fingerprint, to find the run again.
    """
    paths = [str(path) for path in batch.get("path", [])]
    tensors = {f"batch.{k}": v for k, v in batch.items() if isinstance(v, torch.Tensor)}
    tensors |= {f"network.{k}": v for k, v in trained_tensors(network).items()}
    story = {"step": step, "rank": rank, "not_finite": name, "terms": dict(terms), "paths": paths}
    story |= dict(about or {})
    target = folder / f"failure-step-{step:08d}-rank-{rank}.safetensors"
    with atomic_write(target) as path:
        copies = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        write_safetensors(copies, path, {"failure": json.dumps(story)})
    shown = ", ".join(paths[:SHOWN_PATHS]) + (f" and {len(paths) - 10} more" if len(paths) > 10 else "")
    return NotFiniteError(
        f"{name} is not finite ({terms.get(name)}) in step {step} (rank {rank}); images: {shown}. The last good "
        f"checkpoint is kept; {target} holds batch and weights "
        "(ssdd.training.guard.replay computes the losses again). Lower the learning rate, leave out the images, or "
        "use precision 'no' or 'bf16'"
    )
