"""An encoder of diffusers as a checkpoint of this project, which is what the stages exchange."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdd.runs import data_folder


def provided_encoder(written: str, parameters: Mapping[str, Any], project: Path) -> Path | None:
    """Turns `encoder_checkpoint`, with `model.encoder=diffusers`, into a checkpoint.

    Args:
        written: the parameter's value: the folder or hub id of an autoencoder of diffusers, or of a pipeline.
        parameters: all parameters of the run, among them `model`, the `ModelParameters`.
        project: the project's folder; relative folders start there or at the working directory.

    Returns:
        the file, which is kept among the data of the project under a hash of its content; or None where the value
        means something else: a checkpoint, or a run.

    Raises:
        CheckpointError: there is no such autoencoder, or it is of a class that is not known here (a ValueError too).
    """
    from ssdd.diffusers_encoders import NAME

    if getattr(parameters.get("model"), "encoder", None) != NAME:
        return None
    places = [place for place in (Path(written).expanduser(), project / written) if place.exists()]
    if any(place.is_file() for place in places):
        return None
    from ssdd_decoder.sources import HUB_ID

    if places:
        return import_to(data_folder(project) / ".encoders", str(places[0]))
    return import_to(data_folder(project) / ".encoders", written) if re.fullmatch(HUB_ID, written) else None


def import_to(folder: Path, source: str) -> Path:
    """Writes the encoder of an autoencoder of diffusers into a folder, unless it is there; returns the file.

    Raises:
        CheckpointError: see `import_encoder`.
    """
    from dataclasses import asdict

    from ssdd.imported_encoders import import_encoder
    from ssdd.latent_scaling import SCALING_KEY
    from ssdd_decoder.checkpoint import write

    found = import_encoder(source)
    config = {"encoder": asdict(found.network.config)}
    scaling = json.dumps(asdict(found.scaling))
    digest = hashlib.sha256(json.dumps([config, scaling], sort_keys=True).encode())
    tensors = found.network.state_dict()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy())  # float32 on the CPU
    file = folder / f"{digest.hexdigest()[:16]}.safetensors"
    if not file.is_file():
        write(file, tensors, config, {SCALING_KEY: scaling})
    return file
