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


def begin_kl(
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    train_kl: KLParameters,
    adversary_start: float,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains the KL-VAE's decoder up to where its adversary joins: the beginning that both of its rows share.

    Args:
        encoder: checkpoint of the frozen encoder.
        plan: of `plan_comparison`.
        index: of the images.
        train_kl: the training, and the decoder's shape.
        adversary_start: the share of the epochs before the adversary.
        data: the images' source.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: device, processes, threads.

    Returns:
        the last checkpoint, the best one and the history.
    """
    stage = _part(train_kl, plan, adversary_start, after=False)
    return _train("kl", encoder, plan, index, stage, data, pretrained_networks, runtime)


def train_kl(
    start: Path,
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    train_kl: KLParameters,
    adversary_start: float,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains that decoder (`start`) on without an adversary; see `begin_kl`."""
    stage = _part(train_kl, plan, adversary_start, after=True)
    return _train("kl", encoder, plan, index, stage, data, pretrained_networks, runtime, start=start)


def train_kl_adversarial(
    start: Path,
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    train_kl: KLParameters,
    adversary: AdversaryParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains that decoder (`start`) on with an adversary; see `begin_kl`."""
    stage = _part(train_kl, plan, adversary.start, after=True)
    return _train("kl", encoder, plan, index, stage, data, pretrained_networks, runtime, adversary, start)


def train_feed_forward(
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    feed_forward: RegressionParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains SSDD's own network by regression alone, called once without noise; see `begin_kl`."""
    stage = feed_forward.model_copy(update={"epochs": feed_forward.epochs or plan["epochs"]})
    return _train("feed_forward", encoder, plan, index, stage, data, pretrained_networks, runtime)


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
    start: Path | None = None,
) -> "RegressionJob":
    """Makes the job of one of these trainings, with its images, its folder and its fingerprint."""
    from ssdd.data.image_sets import held_out_images, training_images
    from ssdd.lineage import current_fingerprint, state_folder
    from ssdd.processes import use_threads
    from ssdd.training.regression import RegressionJob, network_of

    use_threads(runtime)
    return RegressionJob(
        kind=kind,
        encoder=encoder,
        network=network_of(plan["decoder"], stage),
        images=training_images(index, data, stage),
        validation=held_out_images(index, data, stage.im_size, stage.eval_images),
        stage=stage if adversary is None else stage.model_copy(update={"gan": adversary.gan}),
        pretrained_networks=pretrained_networks,
        runtime=runtime,
        folder=state_folder(),
        fingerprint=current_fingerprint(),
        adaptive=adversary is not None and adversary.adaptive,
        start=start,
    )


def _part(stage: KLParameters, plan: dict[str, Any], share: float, after: bool) -> KLParameters:
    """Returns the training before or after the adversary joins, with the number of its epochs."""
    from ssdd.training.regression import split_epochs

    epochs = split_epochs(stage.epochs or plan["epochs"], share)[after]
    # The second part draws anew: with the seed of the first it would see the same crops again.
    return stage.model_copy(update={"epochs": epochs, "seed": stage.seed + 1 if after else stage.seed})


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
    start: Path | None = None,
) -> tuple[Path, Path, Any]:
    from ssdd.stages.training_stage import keep
    from ssdd.training.regression import run_regression

    job = make_regression(kind, encoder, plan, index, stage, data, pretrained_networks, runtime, adversary, start)
    return keep(run_regression(job), job.folder)
