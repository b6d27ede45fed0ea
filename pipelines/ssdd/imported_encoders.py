"""The encoder of an autoencoder that diffusers has saved, with the scale of its latents.

Encoders of the KL kind become an `ssdd_encoder.Encoder`, the same network. The others stay diffusers' own, in a
`DiffusersEncoder`. Either way their latents are taken as they are, and the numbers by which generators scale them are
kept.
"""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdd.diffusers_encoders import KINDS, DiffusersEncoder, DiffusersEncoderConfig, diffusers_class
from ssdd.latent_scaling import LatentScaling
from ssdd_decoder import CheckpointError
from ssdd_encoder import Encoder, EncoderConfig, sdvae

_KL_BLOCKS = "DownEncoderBlock2D"


@dataclass(frozen=True)
class ImportedEncoder:
    """An encoder of diffusers.

    Args:
        network: the encoder.
        scaling: of its latents.
    """

    network: Encoder | DiffusersEncoder
    scaling: LatentScaling


def import_encoder(source: str | Path, **hub: Any) -> ImportedEncoder:
    """Loads the encoder of an autoencoder that diffusers has saved.

    Args:
        source: its folder or hub id, or that of a pipeline with it.
        hub: `revision`, `cache_dir`, `token`, `local_files_only`.

    Raises:
        CheckpointError: there is none, or it is of a class that is not known here.
    """
    settings, options = _settings(str(source), hub)
    name = str(settings.get("_class_name"))
    if name not in KINDS:
        raise CheckpointError(f"{source} holds a {name}: expected one of {', '.join(KINDS)}")
    try:
        autoencoder = diffusers_class(name).from_pretrained(str(source), **options)
    except OSError as error:
        raise CheckpointError(f"{source} has no weights that diffusers can load: {error}") from error
    arguments = inspect.signature(type(autoencoder).__init__).parameters  # some classes keep more than these
    known = {key: value for key, value in autoencoder.config.items() if key in arguments}
    # Dimensions are lists in JSON, and tuples in Python: the configuration has to be the same when it is read again.
    config = DiffusersEncoderConfig(class_name=name, settings=json.loads(json.dumps(known)))
    network: Encoder | DiffusersEncoder
    tensors = {key: tensor.float() for key, tensor in autoencoder.state_dict().items()}
    if (own := _own_config(config)) is not None:
        network = Encoder(own)
        encoder = {key.removeprefix("encoder."): t for key, t in tensors.items() if not key.startswith(("dec", "post"))}
        native = sdvae.to_native(encoder)
        network.load_state_dict(native if "out_proj.weight" in native else sdvae.with_projection(native))
    else:
        network = DiffusersEncoder(config)
        network.network.load_state_dict({key: tensors[key] for key in network.network.state_dict()})
    return ImportedEncoder(network.eval(), _scaling(config))


def _own_config(config: DiffusersEncoderConfig) -> EncoderConfig | None:
    """Returns the configuration of the same network here; None where there is none."""
    settings = config.settings
    if config.class_name != "AutoencoderKL" or set(settings["down_block_types"]) != {_KL_BLOCKS}:
        return None
    first, *_ = widths = settings["block_out_channels"]
    if any(width % first for width in widths) or (settings["act_fn"], settings["in_channels"]) != ("silu", 3):
        return None
    return EncoderConfig(
        latent_channels=settings["latent_channels"],
        base_channels=first,
        multipliers=tuple(width // first for width in widths),
        resnets_per_level=settings["layers_per_block"],
        norm_groups=settings["norm_num_groups"],
        attention=settings.get("mid_block_add_attention", True),
    )


def _scaling(config: DiffusersEncoderConfig) -> LatentScaling:
    if config.class_name == "AutoencoderRAE":  # it does so itself
        return LatentScaling()
    settings = config.settings
    return LatentScaling(
        scaling_factor=settings.get("scaling_factor") or 1.0,
        shift_factor=settings.get("shift_factor") or 0.0,
        latents_mean=settings.get("latents_mean"),
        latents_std=settings.get("latents_std"),
    )


def _settings(source: str, hub: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the autoencoder's configuration; returns it, and the options with which diffusers finds the weights."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise CheckpointError(
            f"the encoder of {source} needs diffusers: install the extra ssdd[diffusers] ({error})"
        ) from error

    load: Callable[..., dict[str, Any]] = AutoencoderKL.load_config
    for options in ({**hub, "subfolder": "vae"}, hub):  # a pipeline's folder comes first: it has no such file itself
        try:
            return load(source, **options), options
        except OSError as error:
            reason = error
    raise CheckpointError(f"there is no autoencoder of diffusers in {source}: {reason}") from reason
