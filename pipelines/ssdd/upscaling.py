"""Decoders whose images are s times as large as the encoder's: they learn images from latents of smaller copies."""

# B batch, H W pixels, s upscale

import torch.nn.functional as F
from torch import Tensor


def shrink(x: Tensor, times: int) -> Tensor:
    """Shrinks images (B, 3, H, W) s times, for the encoder: bicubic with antialiasing, within [-1, 1]."""
    if times == 1:
        return x
    small = F.interpolate(x.float(), scale_factor=1 / times, mode="bicubic", antialias=True)
    return small.clamp(-1, 1).to(x.dtype)


def enlarge(x: Tensor, times: int) -> Tensor:
    """Enlarges images (B, 3, H, W) s times, bicubic: what a decoder that enlarges has to beat."""
    return F.interpolate(x, scale_factor=times, mode="bicubic")
