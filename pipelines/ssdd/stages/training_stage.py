"""Shared by the training stages: parameters become a training job, and its results become catalog entries."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssdd.parameters import DataParameters, PretrainedNetworks, RuntimeConfig, StageParameters, TargetParameters

if TYPE_CHECKING:
    import pandas

    from ssdd.training.jobs import Kind, TrainingJob
    from ssdd.training.ledger import TrainResult


def make_job(
    kind: "Kind",
    index: "pandas.DataFrame",
    stage: StageParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
    *,
    encoder: str | None = None,
    decoder: str | None = None,
    upscale: int = 1,
    checkpoint: Path | None = None,
    encoder_checkpoint: Path | None = None,
    targets: TargetParameters | None = None,
    targets_folder: Path | None = None,
    targets_fingerprint: str = "",
) -> "TrainingJob":
    """Makes the training job of a stage, with its images, its folder and its fingerprint.

    Args:
        kind: see `TrainingJob`, which explains these arguments in full.
        index: of the images.
        stage: every parameter that decides the result.
        data: the images' source.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: device, processes, threads; without effect on the result.
        encoder: name.
        decoder: size.
        upscale: of a decoder that is named by its size, or starts from one that does not enlarge.
        checkpoint, encoder_checkpoint: initial weights of both networks, or of the encoder.
        targets: the teacher's results; if they are cached, only their images are used.
        targets_folder, targets_fingerprint: of cached results.
    """
    # Imported here, as in all nodes: kedro reads every stage to know its graph, and torch takes seconds to import.
    from ssdd.data.image_sets import held_out_images, training_images
    from ssdd.lineage import current_fingerprint, state_folder
    from ssdd.processes import use_threads
    from ssdd.training.jobs import TrainingJob

    use_threads(runtime)
    targets = targets or TargetParameters()
    limit = targets.images if targets.cached else None
    return TrainingJob(
        kind=kind,
        images=training_images(index, data, stage, limit),
        validation=held_out_images(index, data, stage.im_size, stage.eval_images),
        stage=stage,
        targets=targets,
        pretrained_networks=pretrained_networks,
        runtime=runtime,
        folder=state_folder(),
        fingerprint=current_fingerprint(),
        encoder=encoder,
        decoder=decoder,
        upscale=upscale,
        checkpoint=checkpoint,
        encoder_checkpoint=encoder_checkpoint,
        targets_folder=targets_folder,
        targets_fingerprint=targets_fingerprint,
    )


def run(job: "TrainingJob") -> tuple[Path, Path, "pandas.DataFrame | None"]:
    """Trains, and keeps the results; see `keep`."""
    from ssdd.training.jobs import run_job

    return keep(run_job(job), job.folder)


def keep(result: "TrainResult", folder: Path) -> tuple[Path, Path, "pandas.DataFrame | None"]:
    """Copies the two checkpoints of a training that the catalog keeps.

    The copies are there because the catalog moves its files away, and a resume state needs its best checkpoint.

    Returns:
        the last checkpoint, the best one, and the history (None except on rank 0, which alone writes).
    """
    import shutil

    import pandas

    from ssdd.files import atomic_write
    from ssdd.processes import is_main

    if not is_main():
        return result.last, result.best, None
    copies = []
    for name, file in (("finished", result.last), ("finished-best", result.best)):
        copy = folder / f"{name}.safetensors"
        with atomic_write(copy) as temporary:
            shutil.copyfile(file, temporary)
        copies.append(copy)
    return copies[0], copies[1], pandas.read_csv(result.history)
