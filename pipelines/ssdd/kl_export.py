"""A KL-VAE of this project as a folder that diffusers loads: `AutoencoderKL.from_pretrained(folder)`."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssdd.baselines import KLAutoencoder, KLDecoderConfig
from ssdd_encoder import EncoderConfig

# ours -> diffusers, applied in order to each of the encoder's keys
_ENCODER = [
    (r"^down\.(\d+)\.block\.(\d+)\.nin_shortcut\.", r"down_blocks.\1.resnets.\2.conv_shortcut."),
    (r"^down\.(\d+)\.block\.(\d+)\.", r"down_blocks.\1.resnets.\2."),
    (r"^down\.(\d+)\.downsample\.conv\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"^mid\.block_1\.", "mid_block.resnets.0."),
    (r"^mid\.block_2\.", "mid_block.resnets.1."),
    (r"^mid\.attn_1\.norm\.", "mid_block.attentions.0.group_norm."),
    (r"^mid\.attn_1\.([qkv])\.", r"mid_block.attentions.0.to_\1."),
    (r"^mid\.attn_1\.proj_out\.", "mid_block.attentions.0.to_out.0."),
    (r"^norm_out\.", "conv_norm_out."),
]
PUBLISHED = (
    "train it on an encoder f<F>c<C>, with train_kl.patch_size 1, shortcut false, and width, resnets_per_level and "
    "norm_groups as the encoder's (128, 2 and 32)"
)


def export_kl(model: KLAutoencoder, folder: Path) -> Path:
    """Writes encoder and decoder as diffusers' `AutoencoderKL`, the folder whole or not at all.

    Args:
        model: with the published structure: no patches, shortcuts or windows, which that class does not have.
        folder: a new one, or an empty one.

    Raises:
        ValueError: the model has a part that the class does not have, or the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"expected a new or empty folder, got {folder}: choose another name")
    network = autoencoder_kl(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name[:40]}.", suffix=".partial", dir=folder.parent) as temporary:
        written = Path(temporary) / "vae"
        network.save_pretrained(written)
        if folder.exists():
            folder.rmdir()  # it is empty; Windows replaces no folder
        os.replace(written, folder)
    return folder


def autoencoder_kl(model: KLAutoencoder) -> Any:
    """Returns the same networks as diffusers' `AutoencoderKL`, in evaluation mode.

    Raises:
        ValueError: see `export_kl`.
    """
    from diffusers import AutoencoderKL  # takes seconds

    encoder, decoder = model.encoder.config, model.decoder.config
    if not isinstance(encoder, EncoderConfig):
        raise ValueError(f"expected an encoder of this project, got {encoder.class_name} of diffusers: {PUBLISHED}")
    _check(encoder, decoder)
    levels = len(decoder.widths)
    with torch.device("meta"):
        network: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=decoder.widths,
            layers_per_block=decoder.resnets_per_level,
            latent_channels=decoder.latent_channels,
            norm_num_groups=decoder.norm_groups,
            mid_block_add_attention=encoder.attention,
            scaling_factor=1.0,  # the latents of this project's encoders have no scale of their own
        )
    weights = {f"encoder.{key}": value for key, value in _renamed(model.encoder.state_dict()).items()}
    weights |= {key.replace("encoder.quant_conv.", "quant_conv."): value for key, value in weights.items()}
    weights = {key: value for key, value in weights.items() if not key.startswith("encoder.quant_conv.")}
    network.load_state_dict(weights | model.decoder.state_dict(), strict=True, assign=True)
    return network.eval()


def _check(encoder: EncoderConfig, decoder: KLDecoderConfig) -> None:
    foreign = {
        "patches in the encoder": encoder.patch_size > 1,
        "a shortcut in the encoder": encoder.shortcut,
        "attention within windows": encoder.attention_window is not None,
        "no attention": not encoder.attention,
        "patches in the decoder": decoder.patch_size > 1,
        "a shortcut in the decoder": decoder.shortcut,
        f"widths {encoder.widths} and {decoder.widths} in encoder and decoder": encoder.widths != decoder.widths,
        "other depths in encoder and decoder": encoder.resnets_per_level != decoder.resnets_per_level,
        "other groups in encoder and decoder": encoder.norm_groups != decoder.norm_groups,
    }
    found = [name for name, is_there in foreign.items() if is_there]
    if found:
        raise ValueError(
            f"expected a KL-VAE of the published structure, which diffusers' AutoencoderKL has, got one with "
            f"{', '.join(found)}: {PUBLISHED}"
        )


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for key, tensor in weights.items():
        name = re.sub(r"^out_proj\.", "quant_conv.", key)
        for pattern, replacement in _ENCODER:
            name = re.sub(pattern, replacement, name)
        matrix = "attentions" in name and tensor.ndim == 4  # 1x1 kernels of the attention are matrices there
        found[name] = tensor[:, :, 0, 0] if matrix else tensor
    return found
