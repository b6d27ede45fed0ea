"""Stage 2: the decoder is trained further, at the resolution of use."""

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
    """Trains the decoder of stage 1 further, and returns its last checkpoint (the teacher), best one and history.

    Args:
        pretrained: checkpoint of stage 1.
        index: of the images.
        finetune: the training stage.
        data: the images' source.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: device, processes, threads.
    """
    return run(make_job("decoder", index, finetune, data, pretrained_networks, runtime, checkpoint=pretrained))
