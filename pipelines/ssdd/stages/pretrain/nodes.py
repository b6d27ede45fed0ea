"""Stage 1: a decoder on the frozen encoder."""

from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters, JudgeFiles, ModelParameters, PretrainParameters, RuntimeConfig
from ssdd.stages.training import make_job, run


def pretrain(
    encoder: Path,
    index: Any,
    model: ModelParameters,
    pretrain: PretrainParameters,
    data: DataParameters,
    judges: JudgeFiles,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains a fresh decoder, or goes on with the encoder's own: last checkpoint, best checkpoint, history."""
    if pretrain.initialize == "joint":
        networks: dict[str, Any] = {"checkpoint": encoder}
    else:
        networks = {"encoder_checkpoint": encoder, "decoder": model.decoder}
    return run(make_job("decoder", index, pretrain, data, judges, runtime, **networks))
