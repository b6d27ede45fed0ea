"""SD-VAE's encoder, and those of its successors: converts the two layouts in which they are published to ours.

Both hold the same network as `f8c4`. Diffusers' `AutoencoderKL` has its own names and keeps the attention's projections
as matrices. In latent diffusion's layout, only the last 1x1 convolution, `quant_conv`, is not in the encoder. Later
autoencoders (Stable Diffusion 3, Flux) have none: for them, it is the identity.
"""

import os
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ssdd_encoder.config import SDVAE

HUB_ID = "stabilityai/sd-vae-ft-mse"
OUTSIDE_THE_ENCODER = ("quant_conv.",)  # keys of the encoder that have no `encoder.` before them in these layouts

# keys that only a KL decoder has, in diffusers' layout or latent diffusion's
_KL_DECODER = re.compile(r"^decoder\.(up_blocks\.0\.resnets\.0\.norm1|up\.0\.block\.0\.norm1)\.weight$")

# diffusers -> ours, applied in order to each key that follows "encoder.": a general rule comes after its exceptions
_DIFFUSERS = [
    (r"^down_blocks\.(\d+)\.resnets\.(\d+)\.conv_shortcut\.", r"down.\1.block.\2.nin_shortcut."),
    (r"^down_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2."),
    (r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"down.\1.downsample.conv."),
    (r"^mid_block\.resnets\.0\.", "mid.block_1."),
    (r"^mid_block\.resnets\.1\.", "mid.block_2."),
    (r"^mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"^mid_block\.attentions\.0\.(?:to_q|query)\.", "mid.attn_1.q."),
    (r"^mid_block\.attentions\.0\.(?:to_k|key)\.", "mid.attn_1.k."),
    (r"^mid_block\.attentions\.0\.(?:to_v|value)\.", "mid.attn_1.v."),
    (r"^mid_block\.attentions\.0\.(?:to_out\.0|proj_attn)\.", "mid.attn_1.proj_out."),
    (r"^conv_norm_out\.", "norm_out."),
]


def checkpoint_of(source: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Returns the hub id for the name `sdvae`, and any other source as it is."""
    return HUB_ID if source == SDVAE else source


def to_native(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the encoder's tensors to our layout; tensors that have it already stay as they are.

    Args:
        tensors: by key, without `encoder.`; `quant_conv.*` is the 1x1 convolution that we call `out_proj`.

    Returns:
        the tensors by our keys; matrices of the attention become 1x1 kernels.
    """
    native = {}
    for key, tensor in tensors.items():
        name = re.sub(r"^quant_conv\.", "out_proj.", key)
        for pattern, replacement in _DIFFUSERS:
            name = re.sub(pattern, replacement, name)
        if name.startswith("mid.attn_1.") and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        native[name] = tensor
    return native


def lacks_projection(tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether a whole file is one of these autoencoders, made without the last 1x1 convolution.

    Its decoder shows that. An encoder of ours with that tensor missing is a damaged file.
    """
    names = ("quant_conv.weight", "encoder.quant_conv.weight", "encoder.out_proj.weight")
    return any(map(_KL_DECODER.match, tensors)) and not any(name in tensors for name in names)


def with_projection(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds the 1x1 convolution that changes nothing, to tensors by our keys."""
    bias = tensors.get("conv_out.bias")
    if bias is None or bias.ndim != 1:
        return dict(tensors)  # damaged; what is missing is named where the encoder is filled
    identity = torch.eye(bias.numel(), dtype=bias.dtype, device=bias.device)[:, :, None, None]
    return {**tensors, "out_proj.weight": identity, "out_proj.bias": torch.zeros_like(bias)}
