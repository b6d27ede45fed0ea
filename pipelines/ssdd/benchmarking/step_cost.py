"""What a training step of each kind costs, alternated in one process: the training cost of the comparison follows."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from ssdd.benchmarking.timing import time_sides
from ssdd.data.loader import batches
from ssdd.noise import sample_noise
from ssdd.training import jobs, regression
from ssdd.training.batches import pieces_per_process
from ssdd.training.jobs import TrainingJob
from ssdd.training.loop import trial_step
from ssdd.training.regression import RegressionJob
from ssdd.training.teacher_targets import CachedTargets
from ssdd.upscaling import shrink

TARGETS = "teacher targets"
TARGET_BATCH = 8  # images that the teacher decodes at a time


def measure_steps(
    trainings: Mapping[str, TrainingJob | RegressionJob], rounds: int, device: torch.device
) -> list[dict[str, Any]]:
    """Times one optimiser step of each training, and the teacher's steps on a batch where its results are cached.

    Args:
        trainings: jobs by the names of their rows; nothing of theirs is written but an empty folder.
        rounds: timings of each.
        device: that they compute on.

    Returns:
        rows with `step`, `images` (of a step), `seconds_per_view` (median) and its quartiles.
    """
    sides: dict[str, Any] = {}
    images: dict[str, int] = {}
    for name, job in trainings.items():
        sides[name], images[name] = _trial(job, name), job.stage.batch_size
        if isinstance(job, TrainingJob) and job.is_cached:
            sides[TARGETS], images[TARGETS] = _targets(job, device), min(TARGET_BATCH, len(job.images))
    rows = []
    for name, timing in time_sides(sides, next(iter(sides)), rounds, device).items():
        figures = timing.summary()
        per_view = {f"seconds_per_view{end}": figures[f"seconds{end}"] / images[name] for end in ("", "_q25", "_q75")}
        rows.append({"step": name, "images": images[name], **per_view})
    return rows


def _trial(job: TrainingJob | RegressionJob, name: str) -> Any:
    folder = job.folder / name.replace(" ", "_")
    pieces_per_process(job.stage, 1)
    if isinstance(job, RegressionJob):
        _, step = regression.build_step(job)
        return trial_step(step, job.images, job.stage, job.runtime, folder)
    decoder_step = jobs.build_step(job, jobs.build_model(job))
    images: Any = job.images
    if job.is_cached:
        assert job.targets_folder is not None
        images = CachedTargets(job.images, job.targets_folder, job.targets_fingerprint, decoder_step.needs_real)
    return trial_step(decoder_step, images, job.stage, job.runtime, folder)


def _targets(job: TrainingJob, device: torch.device) -> Any:
    """Returns a function that computes the teacher's results of a batch."""
    model = jobs.build_model(job).to(device).eval()
    x = next(iter(batches(job.images, min(TARGET_BATCH, len(job.images)))))["image"].to(device)
    small = shrink(x, model.upscale)
    noise = sample_noise(list(range(len(x))), x.shape[1:]).to(device)
    return partial(model.reconstruct, small, job.targets.teacher_steps, noise)
