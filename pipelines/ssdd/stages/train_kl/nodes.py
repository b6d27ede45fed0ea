"""The decoders that SSDD is compared with, on its frozen encoder and with its budget of image views."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.comparison_parameters import AdversaryParameters, KLParameters, RegressionParameters
from ssdd.parameters import DataParameters, PretrainedNetworks, RuntimeConfig, TargetParameters

if TYPE_CHECKING:
    from ssdd.training.regression import Kind, RegressionJob


def plan_comparison(
    finetuned: Path,
    index: Any,
    initialize: str,
    encoder_epochs: int,
    pretrain_epochs: int,
    finetune_epochs: int,
    distill_epochs: int,
    targets: TargetParameters,
) -> tuple[Path, dict[str, Any]]:
    """Takes the encoder out of the teacher, and counts the image views that SSDD's decoder has had.

    Both are results of their own: another number of steps of the teacher changes neither, and then no decoder of the
    comparison is trained again.

    Args:
        finetuned: the teacher.
        index: of the images.
        initialize: whether the decoder of stage 1 goes on from the one trained along with the encoder (`joint`).
        encoder_epochs, pretrain_epochs, finetune_epochs, distill_epochs: of the stages.
        targets: how many images the student learns from.

    Returns:
        the encoder's file, and a plan: `views` by stage and in all, `images`, `epochs` and SSDD's `decoder`.
    """
    from ssdd.autoencoder import SSDD
    from ssdd.encoders import load_encoder
    from ssdd.lineage import state_folder

    images = int((index["split"] == "train").sum())
    taught = min(targets.images or images, images) if targets.cached else images
    views = {
        # A fresh decoder in stage 1 has nothing of the decoder that was trained along with the encoder.
        "train_encoder": encoder_epochs * images if initialize == "joint" else 0,
        "pretrain": pretrain_epochs * images,
        "finetune": finetune_epochs * images,
        "distill": distill_epochs * taught,
    }
    total = sum(views.values())
    file = load_encoder(finetuned).save_pretrained(state_folder() / "encoder.safetensors")
    decoder = SSDD.config_of(finetuned)[1]
    assert decoder is not None
    plan = {
        "views": total,
        "views_by_stage": views,
        "images": images,
        "epochs": max(1, -(-total // max(1, images))),  # rounded up: SSDD is given no advantage
        "decoder": asdict(decoder),
    }
    return file, plan


def train_kl(
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    train_kl: KLParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains the KL-VAE's decoder without an adversary, and returns its last checkpoint, best one and history.

    Args:
        encoder: checkpoint of the frozen encoder.
        plan: of `plan_comparison`.
        index: of the images.
        train_kl: the training, and the decoder's shape.
        data: the images' source.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: device, processes, threads.
    """
    return _train("kl", encoder, plan, index, train_kl, data, pretrained_networks, runtime)


def train_kl_adversarial(
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    train_kl: KLParameters,
    adversary: AdversaryParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains the same decoder with an adversary; see `train_kl`."""
    return _train("kl", encoder, plan, index, train_kl, data, pretrained_networks, runtime, adversary)


def train_feed_forward(
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    feed_forward: RegressionParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains SSDD's own network by regression alone, called once without noise; see `train_kl`."""
    return _train("feed_forward", encoder, plan, index, feed_forward, data, pretrained_networks, runtime)


def make_regression(
    kind: "Kind",
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    stage: RegressionParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
    adversary: AdversaryParameters | None = None,
) -> "RegressionJob":
    """Makes the job of one of these trainings, with its images, its budget, its folder and its fingerprint."""
    from ssdd.data.image_sets import held_out_images, training_images
    from ssdd.lineage import current_fingerprint, state_folder
    from ssdd.processes import use_threads
    from ssdd.training.regression import RegressionJob, network_of, with_budget

    use_threads(runtime)
    images = training_images(index, data, stage)
    return RegressionJob(
        kind=kind,
        encoder=encoder,
        network=network_of(plan["decoder"], stage),
        images=images,
        validation=held_out_images(index, data, stage.im_size, stage.eval_images),
        stage=with_budget(stage, plan["epochs"], len(images), adversary),
        pretrained_networks=pretrained_networks,
        runtime=runtime,
        folder=state_folder(),
        fingerprint=current_fingerprint(),
        adaptive=adversary is not None and adversary.adaptive,
    )


def _train(
    kind: "Kind",
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    stage: RegressionParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
    adversary: AdversaryParameters | None = None,
) -> tuple[Path, Path, Any]:
    from ssdd.stages.training_stage import keep
    from ssdd.training.regression import run_regression

    job = make_regression(kind, encoder, plan, index, stage, data, pretrained_networks, runtime, adversary)
    return keep(run_regression(job), job.folder)
