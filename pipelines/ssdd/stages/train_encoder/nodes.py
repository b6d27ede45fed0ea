"""Joint training of encoder and decoder."""

from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters, ModelParameters, PretrainedNetworks, RuntimeConfig, StageParameters
from ssdd.stages.training_stage import make_job, run


def train_encoder(
    index: Any,
    model: ModelParameters,
    train_encoder: StageParameters,
    data: DataParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> tuple[Path, Path, Any]:
    """Trains an encoder with a decoder from scratch, and returns the last checkpoint, the best one and the history."""
    job = make_job(
        "autoencoder",
        index,
        train_encoder,
        data,
        pretrained_networks,
        runtime,
        encoder=model.encoder,
        decoder=model.decoder,
    )
    return run(job)
