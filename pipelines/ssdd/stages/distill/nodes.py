"""Distillation: the teacher's several steps become the student's one."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.parameters import DataParameters, PretrainedNetworks, RuntimeConfig, StageParameters, TargetParameters
from ssdd.stages.training_stage import make_job, run

if TYPE_CHECKING:
    from ssdd.parameters import DistillConfig

FINGERPRINT = "fingerprint.txt"


def cache_teacher_targets(
    finetuned: Path,
    index: Any,
    targets: TargetParameters,
    im_size: int,
    aug_scale: float,
    seed: int,
    data: DataParameters,
    runtime: RuntimeConfig,
) -> Path:
    """Runs the teacher once over the training images, if its results are to be kept.

    Args:
        finetuned: the teacher.
        index: of the images.
        targets: how many images, how many steps.
        im_size, aug_scale, seed: of the distillation, which must see the same crops and noise.
        data: where the images are.
        runtime: see there.

    Returns:
        a folder of shards with (noise seed, z, x_T) of each image; an empty one if nothing is kept.
    """
    import dataclasses

    from ssdd.lineage import current_fingerprint, state_folder
    from ssdd.processes import is_main
    from ssdd.training.jobs import cache_targets

    folder = state_folder() / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    if targets.cached:
        stage = StageParameters(im_size=im_size, aug_scale=aug_scale, seed=seed)
        job = make_job(
            "distillation",
            index,
            stage,
            data,
            PretrainedNetworks(),
            runtime,
            targets.images,
            checkpoint=finetuned,
            distill=_config(targets),
            targets=folder,
            targets_fingerprint=current_fingerprint(),
        )
        cache_targets(dataclasses.replace(job, validation=None))
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
    """Trains a one-step student of the teacher: last checkpoint, best checkpoint, history.

    Args:
        finetuned: the teacher.
        teacher_targets: folder of its results, see `cache_teacher_targets`.
        index: of the images.
        distill: see there.
        targets: whether results are cached, and the teacher's steps.
        data: where the images are.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: see there.
    """
    cached: dict[str, Any] = {}
    if targets.cached:
        fingerprint = (teacher_targets / FINGERPRINT).read_text(encoding="utf-8")
        cached = {"targets": teacher_targets, "targets_fingerprint": fingerprint}
    limit = targets.images if targets.cached else None
    networks = {"checkpoint": finetuned, "distill": _config(targets), **cached}
    return run(make_job("distillation", index, distill, data, pretrained_networks, runtime, limit, **networks))


def _config(targets: TargetParameters) -> "DistillConfig":
    from ssdd.parameters import DistillConfig

    return DistillConfig(
        teacher_steps=targets.teacher_steps,
        cached=targets.cached,
        cache_dtype=targets.dtype,
        shard_size=targets.shard_size,
    )
