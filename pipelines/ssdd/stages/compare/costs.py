"""The training cost of SSDD and of the decoders that it is compared with: measured steps times image views."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.comparison_parameters import AdversaryParameters, KLParameters, RegressionParameters, SpeedParameters
from ssdd.parameters import (
    DataParameters,
    PretrainedNetworks,
    PretrainParameters,
    RuntimeConfig,
    StageParameters,
    TargetParameters,
)
from ssdd.reporting.comparison_table import DISTILLATION, FEED_FORWARD, KL, KL_ADVERSARIAL, STAGE_1, STAGE_2
from ssdd.stages.distill.nodes import FINGERPRINT
from ssdd.stages.training_stage import make_job

if TYPE_CHECKING:
    from ssdd.training.jobs import TrainingJob
    from ssdd.training.regression import Kind, RegressionJob


def measure_training_cost(
    finetuned: Path,
    encoder: Path,
    teacher_targets: Path,
    plan: dict[str, Any],
    index: Any,
    pretrain: PretrainParameters,
    finetune: StageParameters,
    distill: StageParameters,
    targets: TargetParameters,
    train_kl: KLParameters,
    adversary: AdversaryParameters,
    feed_forward: RegressionParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    speed: SpeedParameters,
    runtime: RuntimeConfig,
) -> Any:
    """Times a training step of each kind, in one CPU thread or on the GPU: a row with its seconds for an image view.

    Args:
        finetuned: the teacher.
        encoder: the frozen one.
        teacher_targets: folder of the teacher's results; None where the student is given.
        plan: of the comparison, with SSDD's network.
        index: of the images.
        pretrain, finetune, distill, targets, train_kl, adversary, feed_forward: the trainings.
        data: the images' source.
        pretrained_networks: the pretrained networks of the losses.
        speed: rounds.
        runtime: the device.
    """
    import pandas

    from ssdd.benchmarking.machine import prepare_device
    from ssdd.benchmarking.step_cost import measure_steps

    runtime = runtime.model_copy(update={"threads": 1, "processes": 1, "trackers": (), "progress": "none"})
    device = prepare_device(runtime.device, 1)
    common = (data, pretrained_networks, runtime)
    trainings: dict[str, Any] = {
        STAGE_1: make_job("decoder", index, pretrain, *common, checkpoint=finetuned),
        STAGE_2: make_job("decoder", index, finetune, *common, checkpoint=finetuned),
        DISTILLATION: _distillation(finetuned, teacher_targets, targets, index, distill, *common),
    }
    rows: dict[str, Any] = {KL: (train_kl, None), FEED_FORWARD: (feed_forward, None)}
    if adversary.enabled:
        rows[KL_ADVERSARIAL] = (train_kl, adversary)
    for name, (stage, gan) in rows.items():
        trainings[name] = _regression(encoder, plan, index, stage, gan, *common)
    return pandas.DataFrame(measure_steps(trainings, speed.rounds, device))


def _distillation(
    finetuned: Path,
    teacher_targets: Path | None,
    targets: TargetParameters,
    index: Any,
    distill: StageParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> "TrainingJob":
    cached = targets.cached and teacher_targets is not None
    fingerprint = (teacher_targets / FINGERPRINT).read_text(encoding="utf-8") if cached and teacher_targets else ""
    return make_job(
        "distillation",
        index,
        distill,
        data,
        pretrained_networks,
        runtime,
        checkpoint=finetuned,
        targets=targets.model_copy(update={"cached": cached}),
        targets_folder=teacher_targets if cached else None,
        targets_fingerprint=fingerprint,
    )


def _regression(
    encoder: Path,
    plan: dict[str, Any],
    index: Any,
    stage: RegressionParameters,
    adversary: AdversaryParameters | None,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> "RegressionJob":
    from ssdd.stages.train_kl.nodes import make_regression

    stage = stage.model_copy(update={"epochs": 1})  # one step is timed
    kind: Kind = "kl" if isinstance(stage, KLParameters) else "feed_forward"
    return make_regression(kind, encoder, plan, index, stage, data, pretrained_networks, runtime, adversary)
