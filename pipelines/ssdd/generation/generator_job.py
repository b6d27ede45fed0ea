"""The job that trains a generator, and its periodic evaluation: the loss on held-out latents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ssdd.data.loader import batches
from ssdd.evaluation.periodic import Evaluation
from ssdd.generation.generator import Generator, generator_config
from ssdd.generation.generator_step import GeneratorStep, flow_loss
from ssdd.generation.latent_dataset import LatentDataset
from ssdd.generation.latent_manifest import Manifest, read_manifest
from ssdd.generation_parameters import GeneratorParameters
from ssdd.noise import sample_noise, sample_seeds
from ssdd.parameters import RuntimeConfig
from ssdd.processes import launch
from ssdd.training.ledger import TrainResult
from ssdd.training.loop import train, trial_step
from ssdd.training.threads import choose_threads, is_measured, kept_threads

TITLE = "training the generator"


@dataclass(frozen=True, kw_only=True)
class GeneratorJob:
    """The training of one generator.

    Args:
        latents: folder of the shards.
        stage: everything else that decides the result.
        runtime: everything that does not.
        folder: the run's own folder, written to by no one else.
        fingerprint: of everything that decides the result, except `stage.epochs` and `runtime`.
    """

    latents: Path
    stage: GeneratorParameters
    runtime: RuntimeConfig
    folder: Path
    fingerprint: str


def run_generator(job: GeneratorJob) -> TrainResult:
    """Trains, in `runtime.processes` processes; goes on where an earlier call of the same fingerprint stopped.

    Raises:
        ValueError: a setting does not fit the latents; before anything is trained.
        ImportError: diffusers is not installed.
        NotFiniteError, WorkerFailed: training broke off.
        SystemExit: SIGTERM or SIGINT came; the state is saved.
    """
    if job.runtime.processes > 1:
        build_generator(read_manifest(job.latents), job.stage)  # here once: each worker would report a traceback
    with kept_threads():
        return launch(_train, job.runtime.processes, job)


def build_generator(latents: Manifest, stage: GeneratorParameters) -> Generator:
    """Builds the network for some latents from the seed; the global random state stays the same.

    Raises:
        ValueError: size, patches or classes do not fit the latents.
    """
    classes = len(latents.classes) if stage.num_classes is None else stage.num_classes
    if 0 < classes < len(latents.classes):
        raise ValueError(
            f"expected num_classes 0 or at least {len(latents.classes)}, as many as the latents have, got {classes}"
        )
    config = generator_config(
        stage.size, stage.patch_size, latents.shape, latents.downscale, latents.statistics, classes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stage.seed)
        return Generator(config)


class HeldOutLoss:
    """Callable for the loop: the loss on the held-out latents, at times that are spread evenly.

    Time and noise of a latent follow from its index, so that all evaluations are of the same draws.

    Args:
        generator: it trains.
        latents: of the split `validation`.
        stage: batch size, and the seed of the noise.
    """

    def __init__(self, generator: Generator, latents: LatentDataset, stage: GeneratorParameters) -> None:
        self.generator, self.latents, self.stage = generator, latents, stage

    def __call__(self, accelerator: Accelerator) -> Evaluation:
        """Evaluates the network as it is."""
        rank, processes = accelerator.process_index, accelerator.num_processes
        sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
        for batch in batches(self.latents, self.stage.eval_batch_size, 0, rank, processes):  # type: ignore[arg-type]
            losses = self._losses(batch, accelerator.device)
            sums += torch.stack([losses.double().sum(), torch.tensor(len(losses), device=losses.device).double()])
        total, count = accelerator.gather(sums[None]).sum(0).tolist()
        return Evaluation(metrics={"flow_loss": total / count})

    def _losses(self, batch: dict[str, Any], device: torch.device) -> torch.Tensor:
        index, z = batch["index"], batch["z"].to(device)
        t = ((index + 0.5) / len(self.latents)).float().to(device)
        eps = sample_noise(sample_seeds(self.stage.seed, "held-out", 0, index.tolist()), z.shape[1:]).to(device)
        labels = self.generator.known_labels(batch["label"].to(device))
        return flow_loss(self.generator, z, eps, t, labels)


def _train(job: GeneratorJob) -> TrainResult:
    stage, runtime = job.stage, job.runtime
    manifest = read_manifest(job.latents)
    latents = LatentDataset(job.latents, split="train", latent=stage.latent, flip=stage.flip, seed=stage.seed)
    step = GeneratorStep(build_generator(manifest, stage), stage)
    if is_measured(stage, runtime):
        choose_threads(trial_step(step, latents, stage, runtime, job.folder), TITLE)
        step = GeneratorStep(build_generator(manifest, stage), stage)  # again: the trial leaves gradients
    evaluate = None
    if manifest.images.get("validation"):
        held_out = LatentDataset(job.latents, split="validation", latent="mode", limit=stage.eval_images)
        evaluate = HeldOutLoss(step.generator, held_out, stage)
    return train(
        step,
        latents,
        stage,
        runtime,
        job.folder,
        job.fingerprint,
        export=lambda path: step.generator.save_pretrained(path, manifest.encoder),
        evaluate=evaluate,
        title=TITLE,
    )
