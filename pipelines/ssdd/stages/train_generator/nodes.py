"""The generator: a diffusion transformer, trained on the latents alone."""

from pathlib import Path
from typing import Any

from ssdd.generation_parameters import GeneratorParameters
from ssdd.parameters import RuntimeConfig


def train_generator(
    latents: Path, train_generator: GeneratorParameters, runtime: RuntimeConfig
) -> tuple[Path, Path, Any]:
    """Trains the generator, and returns its last checkpoint, its best one and its history.

    Args:
        latents: folder of the shards.
        train_generator: the training, and the transformer's size.
        runtime: device, processes, threads.
    """
    from ssdd.generation.generator_job import GeneratorJob, run_generator
    from ssdd.lineage import current_fingerprint, state_folder
    from ssdd.processes import use_threads
    from ssdd.stages.training_stage import keep

    use_threads(runtime)
    job = GeneratorJob(
        latents=latents,
        stage=train_generator,
        runtime=runtime,
        folder=state_folder(),
        fingerprint=current_fingerprint(),
    )
    return keep(run_generator(job), job.folder)
