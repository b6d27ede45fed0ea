"""What the training stages share: their parameters become a job of the engine, its results catalog entries."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.parameters import DataParameters, PretrainedNetworks, RuntimeConfig, StageParameters

if TYPE_CHECKING:
    import pandas

    from ssdd.training.jobs import TrainingJob


def make_job(
    kind: str,
    index: "pandas.DataFrame",
    stage: StageParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
    limit: int | None = None,
    **networks: Any,
) -> "TrainingJob":
    """Describes a stage to the engine.

    Args:
        kind: see `TrainingJob`.
        index: of the images.
        stage: what decides the result.
        data: where the images are.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: what decides nothing.
        limit: of the training images.
        networks: the other arguments of `TrainingJob`.
    """
    from ssdd.data.image_sets import held_out_images, training_images
    from ssdd.lineage import current_fingerprint, state_folder
    from ssdd.parameters import EvalConfig, TrainConfig
    from ssdd.processes import use_threads
    from ssdd.training.jobs import TrainingJob

    use_threads(runtime)
    train = TrainConfig(**{name: getattr(stage, name) for name in TrainConfig.model_fields})
    evaluation = EvalConfig(
        metrics=stage.eval_metrics, steps=stage.eval_steps, batch_size=stage.eval_batch_size, shown=stage.eval_shown
    )
    return TrainingJob(
        kind=kind,  # type: ignore[arg-type]
        images=training_images(index, data, stage.im_size, stage.aug_scale, stage.seed, limit),
        validation=held_out_images(index, data, stage.im_size, stage.eval_images),
        train=train,
        evaluation=evaluation,
        pretrained_networks=pretrained_networks,
        runtime=runtime,
        folder=state_folder(),
        fingerprint=current_fingerprint(),
        **networks,
    )


def run(job: "TrainingJob") -> tuple[Path, Path, "pandas.DataFrame | None"]:
    """Trains, and copies what the catalog keeps out of the folder of the resume state.

    Returns:
        the last checkpoint, the best one, and the history (None where rank 0 of several processes has it).
    """
    import shutil

    import pandas

    from ssdd.files import atomic_write
    from ssdd.processes import is_main
    from ssdd.training.jobs import run_job

    result = run_job(job)
    if not is_main():
        return result.last, result.best, None
    copies = []
    for name, file in (("finished", result.last), ("finished-best", result.best)):
        copy = job.folder / f"{name}.safetensors"
        with atomic_write(copy) as temporary:
            shutil.copyfile(file, temporary)
        copies.append(copy)
    return copies[0], copies[1], pandas.read_csv(result.history)
