"""The training jobs that the stages run: a job names networks, images and parameters, and trains in its processes."""

import copy
import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from ssdd.autoencoder import SSDD
from ssdd.data.image_dataset import ImageDataset
from ssdd.encoders import AnyEncoderConfig
from ssdd.evaluation.periodic import Evaluator
from ssdd.evaluation.pretrained_networks import find_networks, load_networks
from ssdd.parameters import PretrainedNetworks, RuntimeConfig, StageParameters, TargetParameters
from ssdd.processes import choose_device, is_main, join_group, launch, wait_for_all
from ssdd.training.latent_noise import channel_deviation
from ssdd.training.ledger import TrainResult
from ssdd.training.loop import train, trial_step
from ssdd.training.loss_networks import load_loss_networks
from ssdd.training.steps import AutoencoderStep, DecoderStep, DistillationStep
from ssdd.training.teacher_targets import CachedTargets, check_targets, clean_targets, sound_shards, write_targets
from ssdd.training.threads import choose_threads, is_measured, kept_threads
from ssdd.upscaling import enlarging
from ssdd_decoder import DecoderConfig, decoder_config
from ssdd_encoder import encoder_config
from ssdd_metrics import networks_of

Kind = Literal["autoencoder", "decoder", "distillation"]
Source = Path | str

TITLES = {"autoencoder": "training", "decoder": "training the decoder", "distillation": "distilling"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One training stage.

    Args:
        kind: `autoencoder` trains both networks; `decoder` the decoder on a frozen encoder (stages 1 and 2);
            `distillation` a one-step student of the decoder in `checkpoint`.
        encoder: its configuration or name; None: that of `encoder_checkpoint`, else of `checkpoint`.
        decoder: its configuration or size; None: that of `checkpoint`.
        upscale: side of the decoder's images over that of the encoder's, where it is named by its size, or starts from
            a decoder that does not enlarge.
        checkpoint: initial weights of both networks; None: from scratch.
        encoder_checkpoint: initial weights of the encoder, if in another file (also one that holds a whole model).
        images: training images.
        validation: images of the periodic evaluation; None: there is none.
        stage: everything that decides the result, besides networks and images.
        targets: the teacher's results, for `distillation`.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: everything that does not decide the result.
        folder: the run's own folder, written to by no one else.
        fingerprint: of everything that decides the result, except `stage.epochs` and `runtime`.
        targets_folder: folder of the cached teacher targets, for `distillation` with `targets.cached`.
        targets_fingerprint: of the cached teacher targets.
    """

    kind: Kind
    images: ImageDataset
    folder: Path
    fingerprint: str
    encoder: AnyEncoderConfig | str | None = None
    decoder: DecoderConfig | str | None = None
    upscale: int = 1
    checkpoint: Source | None = None
    encoder_checkpoint: Source | None = None
    validation: ImageDataset | None = None
    stage: StageParameters = dataclasses.field(default_factory=StageParameters)
    targets: TargetParameters = dataclasses.field(default_factory=TargetParameters)
    pretrained_networks: PretrainedNetworks = dataclasses.field(default_factory=PretrainedNetworks)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)
    targets_folder: Path | None = None
    targets_fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.kind == "distillation" and self.checkpoint is None:
            raise ValueError("expected a checkpoint to distil, got none: train or name a teacher first")
        has_encoder = self.encoder is not None or self.encoder_checkpoint is not None
        if self.checkpoint is None and (not has_encoder or self.decoder is None):
            raise ValueError("expected encoder and decoder by name, configuration or checkpoint, one is missing")
        if self.is_cached and self.targets_folder is None:
            raise ValueError("expected the folder of the teacher targets for targets.cached, got none: name it")

    @property
    def is_cached(self) -> bool:
        """Whether a student learns from cached teacher targets."""
        return self.kind == "distillation" and self.targets.cached


def run_job(job: TrainingJob) -> TrainResult:
    """Trains, in `runtime.processes` processes; goes on where an earlier call of the same fingerprint stopped.

    Raises:
        ValueError: a setting, checkpoint or pretrained network does not fit; before anything is trained.
        NotFiniteError, WorkerFailed: training broke off.
        SystemExit: SIGTERM, SIGINT or SIGUSR1 came; the state is saved.
    """
    if job.runtime.processes > 1:
        # Checked once, before the workers start: each would download the same files, and report a traceback.
        find_networks(job.stage.pretrained_networks, job.pretrained_networks)
        check_networks(job)
    with kept_threads():
        return launch(_train, job.runtime.processes, job)


def cache_targets(job: TrainingJob) -> Path:
    """Writes the teacher targets of a distillation job; finished shards of the same fingerprint are kept.

    Returns:
        the folder.
    """
    folder = _targets_folder(job)
    if is_main():
        clean_targets(folder, job.targets_fingerprint, len(job.images), job.targets)
    launch(_cache, job.runtime.processes, job)
    if is_main():  # every shard was hashed above or when it was written, so names are enough
        check_targets(sorted(sound_shards(folder, job.targets_fingerprint, check=False)), len(job.images), folder)
    return folder


def build_model(job: TrainingJob) -> SSDD:
    """Builds encoder and decoder, from checkpoints or from the seed; the global random state stays the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.stage.seed)
        if job.checkpoint is not None and (job.encoder, job.decoder, job.encoder_checkpoint) == (None,) * 3:
            model = SSDD.from_pretrained(job.checkpoint)
            if model.upscale == 1 < job.upscale:
                model.decoder = enlarging(model.decoder, job.upscale).eval()
            return model
        return SSDD(*network_configs(job), job.checkpoint, job.encoder_checkpoint, job.upscale)


def build_step(job: TrainingJob, model: SSDD) -> DecoderStep:
    """Builds the step module of a job; new parts (alignment head, discriminator) are drawn from the seed."""
    networks = load_loss_networks(job.stage.loss, job.pretrained_networks)
    deviation = channel_deviation(model.encoder, job.images, job.stage, job.runtime, model.upscale)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.stage.seed)
        if job.kind == "distillation":
            teacher = None if job.targets.cached else copy.deepcopy(model.decoder)
            return DistillationStep(model, job.stage, networks, teacher, job.targets, deviation)
        return AutoencoderStep(model, job.stage, networks, job.kind == "autoencoder", deviation)


def check_networks(job: TrainingJob) -> None:
    """Looks at names and checkpoint headers of a job, without building a network.

    Raises:
        ValueError: see `network_configs`.
    """
    if job.checkpoint is not None:
        SSDD.config_of(job.checkpoint)
    if job.encoder_checkpoint is not None:
        SSDD.encoder_config_of(job.encoder_checkpoint)
    encoder, decoder = network_configs(job)
    shape = encoder_config(encoder) if isinstance(encoder, str) else encoder
    if isinstance(decoder, str):
        space = {"latent_channels": shape.latent_channels, "downscale": shape.downscale}
        decoder_config(decoder, **space, upscale=job.upscale)


def network_configs(job: TrainingJob) -> tuple[AnyEncoderConfig | str, DecoderConfig | str]:
    """Returns both configurations, those that the job does not name from the headers of its checkpoints.

    Raises:
        ValueError: a name is unknown, or a checkpoint is missing, unreadable or holds no such network.
    """
    encoder, decoder = job.encoder, job.decoder
    if encoder is None:
        if job.encoder_checkpoint is not None:
            encoder = SSDD.encoder_config_of(job.encoder_checkpoint)
        else:
            assert job.checkpoint is not None
            encoder = SSDD.config_of(job.checkpoint)[0]
    if decoder is None:
        assert job.checkpoint is not None
        decoder = SSDD.config_of(job.checkpoint)[1]
    if encoder is None or decoder is None:
        raise ValueError(
            f"expected an encoder and a decoder in {job.encoder_checkpoint or job.checkpoint} and {job.checkpoint}, "
            f"got no {'encoder' if encoder is None else 'decoder'}: name another checkpoint"
        )
    return encoder, decoder


def _train(job: TrainingJob) -> TrainResult:
    model = build_model(job)
    step = build_step(job, model)
    images: Dataset[Any] = job.images
    if job.is_cached:
        images = CachedTargets(job.images, _targets_folder(job), job.targets_fingerprint, step.needs_real)
    if is_measured(job.stage, job.runtime):
        choose_threads(trial_step(step, images, job.stage, job.runtime, job.folder), TITLES[job.kind])
        # Built again: the trial changes gradients and buffers, and the threads may change the last bits of new weights.
        model = build_model(job)
        step = build_step(job, model)
    evaluate = None
    if job.validation is not None:
        networks = load_networks(networks_of(job.stage.eval_metrics), job.pretrained_networks)
        evaluate = Evaluator(model, job.validation, job.stage, job.runtime.workers, networks)

    return train(
        step,
        images,
        job.stage,
        job.runtime,
        job.folder,
        job.fingerprint,
        export=model.save_pretrained,
        evaluate=evaluate,
        title=TITLES[job.kind],
    )


def _cache(job: TrainingJob) -> None:
    model = build_model(job)
    rank, processes = join_group()
    model.to(choose_device(job.runtime.device, rank)).eval().requires_grad_(False)
    wait_for_all()  # rank 0 has removed the useless shards, so the others may trust the names that are left
    write_targets(
        model.encoder,
        model.decoder,
        job.images,
        job.targets,
        _targets_folder(job),
        job.targets_fingerprint,
        seed=job.stage.seed,
        batch_size=job.stage.eval_batch_size,
        workers=job.runtime.workers,
        rank=rank,
        processes=processes,
        progress=job.runtime.display,
    )
    wait_for_all()


def _targets_folder(job: TrainingJob) -> Path:
    if job.targets_folder is None:
        raise ValueError("expected the folder of the teacher targets, got none: name it")
    return job.targets_folder
