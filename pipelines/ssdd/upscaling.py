"""Decoders whose images are s times as large as the encoder's: they learn images from latents of smaller copies."""

# B batch, C latent channels, F down-scale, H W pixels, s upscale

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from ssdd_decoder import Decoder


def shrink(x: Tensor, times: int) -> Tensor:
    """Shrinks images (B, 3, H, W) s times, for the encoder: bicubic with antialiasing, within [-1, 1]."""
    if times == 1:
        return x
    small = F.interpolate(x.float(), scale_factor=1 / times, mode="bicubic", antialias=True)
    return small.clamp(-1, 1).to(x.dtype)


def enlarging(decoder: Decoder, times: int) -> Decoder:
    """Makes a decoder whose images are s times as large of one that does not enlarge, as a start for training.

    All weights are those of the given decoder, for no layer but the shortcut depends on F. Each patch of the shortcut
    is enlarged, so that it gives the enlarged image. Untrained, such a decoder is half a decibel behind a resize.
    """
    config = replace(decoder.config, downscale=decoder.config.downscale * times, upscale=times)
    made, weights = Decoder(config), decoder.state_dict()
    if config.shortcut:
        side = config.patch_reach * decoder.config.downscale
        for name in ("shortcut.weight", "shortcut.bias"):
            patches = weights[name].reshape(3, side, side, -1).permute(0, 3, 1, 2)  # (3, C, side, side)
            weights[name] = enlarge(patches, times).permute(0, 2, 3, 1).reshape(made.state_dict()[name].shape)
    made.load_state_dict(weights)
    return made


def enlarge(x: Tensor, times: int) -> Tensor:
    """Enlarges images (B, 3, H, W) s times, bicubic: what a decoder that enlarges has to beat."""
    return F.interpolate(x, scale_factor=times, mode="bicubic")
