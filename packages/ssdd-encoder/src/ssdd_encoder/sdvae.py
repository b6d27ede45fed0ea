"""SD-VAE's encoder: converts the two layouts in which it is published to ours.

Both hold the same network as `f8c4`. Diffusers' `AutoencoderKL` has its own names and keeps the attention's projections
as matrices. In latent diffusion's layout, only the last 1x1 convolution, `quant_conv`, is not in the encoder.
"""

import os
import re
from collections.abc import Mapping

from torch import Tensor

from ssdd_encoder.config import SDVAE

HUB_ID = "stabilityai/sd-vae-ft-mse"
OUTSIDE_THE_ENCODER = ("quant_conv.",)  # keys of the encoder that have no `encoder.` before them in these layouts

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
