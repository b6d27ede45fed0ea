"""What a stage calls: a job says what to train on what, and runs in one process or many."""

import copy
import dataclasses
import os
from pathlib import Path
from typing import Literal

import torch

from ssdd.autoencoder import SSDD
from ssdd.data.image_dataset import ImageDataset
from ssdd.evaluation.periodic import Evaluator
from ssdd.evaluation.pretrained_networks import find_networks, load_networks
from ssdd.parameters import DistillConfig, EvalConfig, PretrainedNetworks, RuntimeConfig, TrainConfig
from ssdd.processes import is_main, join_group, launch, wait_for_all
from ssdd.training.loop import TrainResult, train
from ssdd.training.loss_networks import load_loss_networks
from ssdd.training.steps import AutoencoderStep, DecoderStep, DistillationStep
from ssdd.training.teacher_targets import CachedTargets, clean_targets, write_targets
from ssdd_decoder import DecoderConfig
from ssdd_encoder import Encoder, EncoderConfig
from ssdd_metrics import networks_of
from ssdd_metrics.registry import metric_names

Kind = Literal["autoencoder", "decoder", "distillation"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training stage.

    Args:
        kind: `autoencoder` trains both networks; `decoder` the decoder on a frozen encoder (stages 1 and 2);
            `distillation` a one-step student of the decoder in `checkpoint`.
        encoder: its configuration or name; None takes what `encoder_checkpoint` or else `checkpoint` holds.
        decoder: its configuration or size; None takes what `checkpoint` holds.
        checkpoint: where both networks start; None: from scratch.
        encoder_checkpoint: where the encoder starts, if in another file (also one that holds a whole model).
        images: training images.
        validation: images of the periodic evaluation; None: there is none.
        train: what decides the result.
        evaluation: of the periodic evaluation.
        distill: for `distillation`.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: what decides nothing.
        folder: the run's own folder, written to by no one else.
        fingerprint: of everything that decides the result, except `train.epochs` and `runtime`.
        targets: folder of the cached teacher targets, for `distillation` with `distill.cached`.
        targets_fingerprint: of those.
    """

    kind: Kind
    images: ImageDataset
    folder: Path
    fingerprint: str
    encoder: EncoderConfig | str | None = None
    decoder: DecoderConfig | str | None = None
    checkpoint: Path | str | None = None
    encoder_checkpoint: Path | str | None = None
    validation: ImageDataset | None = None
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    evaluation: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    distill: DistillConfig = dataclasses.field(default_factory=DistillConfig)
    pretrained_networks: PretrainedNetworks = dataclasses.field(default_factory=PretrainedNetworks)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)
    targets: Path | None = None
    targets_fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.kind == "distillation" and self.checkpoint is None:
            raise ValueError("expected a checkpoint to distil, got none: train or name a teacher first")
        has_encoder = self.encoder is not None or self.encoder_checkpoint is not None
        if self.checkpoint is None and (not has_encoder or self.decoder is None):
            raise ValueError("expected encoder and decoder by name, configuration or checkpoint, one is missing")
        if self.kind == "distillation" and self.distill.cached and self.targets is None:
            raise ValueError("expected the folder of the teacher targets for distill.cached, got none")
        figures = metric_names(self.evaluation.metrics)
        if self.validation is not None and self.train.best_metric not in figures:
            raise ValueError(
                f"expected best_metric among the evaluation's {list(figures)}, got {self.train.best_metric!r}: "
                "choose one of them, or add it to eval_metrics"
            )


def run_job(job: TrainingJob) -> TrainResult:
    """Trains, in `runtime.processes` processes; goes on where an earlier call of the same fingerprint stopped.

    Raises:
        ValueError: a setting, checkpoint or pretrained network is not as needed; before anything is trained.
        NotFiniteError, WorkerFailed: training broke off.
        SystemExit: SIGTERM or SIGINT came; the state is saved.
    """
    if job.runtime.processes > 1:  # fail, or download, once and here
        find_networks(
            (*job.train.loss.pretrained_networks, *networks_of(job.evaluation.metrics)), job.pretrained_networks
        )
        build_model(job)
    return launch(_train, job.runtime.processes, job)


def cache_targets(job: TrainingJob) -> Path:
    """Writes the teacher targets of a distillation job; finished shards of the same fingerprint are kept.

    Returns:
        the folder.
    """
    if job.targets is None:
        raise ValueError("expected the folder of the teacher targets, got none")
    if is_main():
        job.targets.mkdir(parents=True, exist_ok=True)
        clean_targets(job.targets, job.targets_fingerprint, len(job.images), job.distill)
    launch(_cache, job.runtime.processes, job)
    if is_main():
        CachedTargets(job.images, job.targets, job.targets_fingerprint)
    return job.targets


def build_model(job: TrainingJob) -> SSDD:
    """Makes encoder and decoder, from checkpoints or from the seed; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.train.seed)
        if job.checkpoint is not None and (job.encoder, job.decoder, job.encoder_checkpoint) == (None,) * 3:
            return SSDD.from_pretrained(job.checkpoint)
        return SSDD(*_shapes(job), job.checkpoint, job.encoder_checkpoint)


def build_step(job: TrainingJob, model: SSDD) -> DecoderStep:
    """Makes the step module of a job; new parts (alignment head, discriminator) are drawn from the seed."""
    pretrained_networks = load_loss_networks(job.train.loss, job.pretrained_networks)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.train.seed)
        if job.kind == "distillation":
            teacher = None if job.distill.cached else copy.deepcopy(model.decoder)
            return DistillationStep(model, job.train, pretrained_networks, teacher, job.distill)
        return AutoencoderStep(model, job.train, pretrained_networks, train_encoder=job.kind == "autoencoder")


def _shapes(job: TrainingJob) -> tuple[EncoderConfig | str, DecoderConfig | str]:
    """Returns both configurations, asking the checkpoints for what the job does not name."""
    held = SSDD.from_pretrained(job.checkpoint) if job.checkpoint is not None else None
    encoder, decoder = job.encoder, job.decoder
    if encoder is None and job.encoder_checkpoint is not None:
        encoder = Encoder.from_pretrained(job.encoder_checkpoint).config
    elif encoder is None and held is not None:
        encoder = held.encoder.config
    if decoder is None and held is not None:
        decoder = held.decoder.config
    assert encoder is not None
    assert decoder is not None
    return encoder, decoder


def _train(job: TrainingJob) -> TrainResult:
    model = build_model(job)
    step = build_step(job, model)
    images: ImageDataset = job.images
    if job.kind == "distillation" and job.distill.cached and job.targets is not None:
        images = CachedTargets(job.images, job.targets, job.targets_fingerprint)  # type: ignore[assignment]
    workers = job.runtime.workers
    evaluate = None
    if job.validation is not None:
        pretrained_networks = load_networks(networks_of(job.evaluation.metrics), job.pretrained_networks)
        evaluate = Evaluator(model, job.validation, job.evaluation, job.train.seed, workers, pretrained_networks)

    def export(path: Path) -> None:
        model.save_pretrained(path)

    title = {"autoencoder": "training", "decoder": "training the decoder", "distillation": "distilling"}[job.kind]
    return train(
        step,
        images,
        job.train,
        job.runtime,
        job.folder,
        job.fingerprint,
        export=export,
        evaluate=evaluate,
        title=title,
    )


def _cache(job: TrainingJob) -> None:
    model = build_model(job)
    on_cpu = job.runtime.device == "cpu" or not torch.cuda.is_available()
    rank, processes = join_group()
    device = torch.device("cpu" if on_cpu else f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    model.to(device).eval().requires_grad_(False)
    assert job.targets is not None
    wait_for_all()  # rank 0 has removed what is of no use
    write_targets(
        model.encoder,
        model.decoder,
        job.images,
        job.distill,
        job.targets,
        job.targets_fingerprint,
        seed=job.train.seed,
        batch_size=job.evaluation.batch_size,
        workers=job.runtime.workers,
        rank=rank,
        processes=processes,
        progress=job.runtime.progress,
    )
    wait_for_all()
