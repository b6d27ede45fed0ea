"""Stage 2: the decoder goes on at the resolution of use."""

from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters, PretrainedNetworks, RuntimeConfig, StageParameters
from ssdd.stages.training_stage import make_job, run


def finetune(
    pretrained: Path,
    index: Any,
    finetune: StageParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains the pretrained decoder on, and returns its last checkpoint, best checkpoint and history."""
    return run(make_job("decoder", index, finetune, data, pretrained_networks, runtime, checkpoint=pretrained))
