"""Distillation: the student learns to make in one step the image that the teacher makes in several."""

from pathlib import Path
from typing import Any

from ssdd.parameters import (
    AugmentConfig,
    DataParameters,
    PretrainedNetworks,
    RuntimeConfig,
    StageParameters,
    TargetParameters,
)
from ssdd.stages.training_stage import make_job, run

FINGERPRINT = "fingerprint.txt"  # in the folder of the shards, so that the student's node accepts no others


def cache_teacher_targets(
    finetuned: Path,
    index: Any,
    targets: TargetParameters,
    im_size: int,
    aug_scale: float,
    augment: AugmentConfig,
    seed: int,
    data: DataParameters,
    runtime: RuntimeConfig,
) -> Path:
    """Runs the teacher once over the training images, if its results are to be kept.

    It takes four parameters of the distillation and not the whole group: another learning rate of the student must not
    make the teacher's results stale.

    Args:
        finetuned: the teacher.
        index: of the images.
        targets: how many images, how many steps.
        im_size, aug_scale, augment, seed: of the distillation, which uses the same crops and noise.
        data: the images' source.
        runtime: device, processes, threads.

    Returns:
        a folder of shards with (noise seed, z, x_T) of each image; an empty one if nothing is kept.
    """
    from ssdd.lineage import current_fingerprint, state_folder
    from ssdd.processes import is_main
    from ssdd.training.jobs import cache_targets

    folder = state_folder() / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    if targets.cached:
        job = make_job(
            "distillation",
            index,
            StageParameters(im_size=im_size, aug_scale=aug_scale, augment=augment, seed=seed),
            data,
            PretrainedNetworks(),
            runtime,
            checkpoint=finetuned,
            targets=targets,
            targets_folder=folder,
            targets_fingerprint=current_fingerprint(),
        )
        cache_targets(job)
    if is_main():
        (folder / FINGERPRINT).write_text(current_fingerprint(), encoding="utf-8")
    return folder


def distill_teacher(
    finetuned: Path,
    teacher_targets: Path,
    index: Any,
    distill: StageParameters,
    targets: TargetParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains a one-step student of the teacher, and returns its last checkpoint, best checkpoint and history.

    Args:
        finetuned: the teacher.
        teacher_targets: folder of its results, see `cache_teacher_targets`.
        index: of the images.
        distill: the training stage.
        targets: whether results are cached, and the teacher's steps.
        data: the images' source.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: device, processes, threads.
    """
    job = make_job(
        "distillation",
        index,
        distill,
        data,
        pretrained_networks,
        runtime,
        checkpoint=finetuned,
        targets=targets,
        targets_folder=teacher_targets if targets.cached else None,
        targets_fingerprint=(teacher_targets / FINGERPRINT).read_text(encoding="utf-8") if targets.cached else "",
    )
    return run(job)
