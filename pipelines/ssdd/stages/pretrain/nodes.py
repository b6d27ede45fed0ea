"""Stage 1: a decoder on the frozen encoder."""

from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters, ModelParameters, PretrainedNetworks, PretrainParameters, RuntimeConfig
from ssdd.stages.requirements import IMPORTED
from ssdd.stages.training_stage import make_job, run


def pretrain(
    encoder: Path,
    index: Any,
    model: ModelParameters,
    pretrain: PretrainParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains a decoder on the frozen encoder, and returns its last checkpoint, best checkpoint and history.

    Args:
        encoder: checkpoint of the encoder, which also holds the decoder that was trained with it.
        index: of the images.
        model: the decoder's size.
        pretrain: the training stage, and whether it starts from that decoder or from random weights.
        data: the images' source.
        pretrained_networks: the pretrained networks of losses and metrics.
        runtime: device, processes, threads.
    """
    # Along with an encoder of diffusers, no decoder was trained.
    joint = pretrain.initialize == "joint" and model.encoder != IMPORTED
    job = make_job(
        "decoder",
        index,
        pretrain,
        data,
        pretrained_networks,
        runtime,
        checkpoint=encoder if joint else None,
        encoder_checkpoint=None if joint else encoder,
        decoder=None if joint else model.decoder,
        upscale=model.upscale,
    )
    return run(job)
