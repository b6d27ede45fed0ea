"""The encoder of a checkpoint, whichever kind it is: one of this project, or one of diffusers."""

import hashlib
import os
from typing import Any

import torch

from ssdd.diffusers_encoders import DiffusersEncoder, DiffusersEncoderConfig
from ssdd.packaged import resolve
from ssdd_decoder.checkpoint import read, read_header
from ssdd_encoder import Encoder, EncoderConfig, encoder_config, sdvae
from ssdd_encoder.encoder import CHECKPOINT_NAME, KIND

AnyEncoder = Encoder | DiffusersEncoder
AnyEncoderConfig = EncoderConfig | DiffusersEncoderConfig


def read_checkpoint(source: str | os.PathLike[str], name: str, header_only: bool = False, **hub: Any) -> Any:
    """Reads a file, folder, hub id (with its options) or packaged model.

    Returns the decoder package's `Contents`, for both networks: so all errors are the decoder's `CheckpointError`. The
    encoder package's class of that name is the same source, but a type of its own.
    """
    return (read_header if header_only else read)(resolve(sdvae.checkpoint_of(source), name, **hub))


def load_encoder(source: str | os.PathLike[str], **hub: Any) -> AnyEncoder:
    """Loads an encoder of either kind, in evaluation mode.

    Args:
        source: see `ssdd_encoder.Encoder.from_pretrained`.
        hub: likewise.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it holds another network.
    """
    contents = read_checkpoint(source, CHECKPOINT_NAME, **hub)
    return encoder_of(contents, encoder_config(source) if source == sdvae.SDVAE else None)


def encoder_of(contents: Any, config: AnyEncoderConfig | None = None) -> AnyEncoder:
    """Makes the encoder of a checkpoint that has been read; it must be that of `config`, where there is one."""
    held = _foreign(contents)
    if held is None and not isinstance(config, DiffusersEncoderConfig):
        return Encoder.from_contents(contents, config)
    if held is None or (config is not None and config != held):
        raise contents.refusal(f"holds the encoder {held}, and {config} was asked for: name another file")
    tensors, asked = contents.select(KIND, ()), f"the encoder of {held.class_name} in its header"
    with torch.device("meta"):  # compared before any memory is taken: a header may say anything
        shape = DiffusersEncoder(held)
    if {name: tensor.shape for name, tensor in tensors.items()} != {n: t.shape for n, t in shape.state_dict().items()}:
        raise contents.mismatch(tensors, asked=asked, held="another encoder")
    encoder = DiffusersEncoder(held)
    contents.fill(encoder, tensors, asked=asked, held=None)
    return encoder.requires_grad_(True)


def weights_sha256(encoder: AnyEncoder) -> str:
    """Returns a hash of an encoder's weights, which is the same in every file that holds them with the same numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def encoder_config_in(contents: Any) -> AnyEncoderConfig | None:
    """Returns the configuration of a checkpoint's encoder; None where it holds none, or none that is known here."""
    return _foreign(contents) or Encoder.config_in(contents)


def read_config(values: dict[str, Any] | str) -> AnyEncoderConfig:
    """Makes a configuration of its fields, or of a name such as `f8c4`."""
    if isinstance(values, str):
        return encoder_config(values)
    return DiffusersEncoderConfig(**values) if "class_name" in values else EncoderConfig(**values)


def make_encoder(config: AnyEncoderConfig) -> AnyEncoder:
    """Makes an encoder with random weights."""
    return Encoder(config) if isinstance(config, EncoderConfig) else DiffusersEncoder(config)


def _foreign(contents: Any) -> DiffusersEncoderConfig | None:
    values = contents.config.get(KIND)
    if not isinstance(values, dict) or "class_name" not in values:
        return None
    return contents.parse_config(KIND, DiffusersEncoderConfig)
