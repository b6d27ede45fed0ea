"""The pretrained networks of the loss: LPIPS (VGG) and DINOv2, found and checked before anything runs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssdd.evaluation.pretrained_networks import load_loss_network
from ssdd.parameters import LossWeights, PretrainedNetworks
from ssdd_decoder.losses import multiscale_gradient_loss


@dataclass
class LossNetworks:
    """The pretrained networks that the loss needs; None where its term is off.

    Args:
        lpips: two images (B, 3, H, W) in [0, 1] -> distance (B,), with a gradient that is finite everywhere.
        vision: has `features` (the width of its tokens) and `patch_tokens(images in [0, 1], grid)`.
    """

    lpips: nn.Module | None = None
    vision: nn.Module | None = None


def load_loss_networks(weights: LossWeights, files: PretrainedNetworks) -> LossNetworks:
    """Loads the networks of the terms that are on, from the named files, the hub or the usual cache.

    Raises:
        ValueError: a file is missing or not the expected one; the message says which file to put where, and which
            terms to switch off.
    """
    try:
        found = {name: load_loss_network(name, files) for name in weights.pretrained_networks}
    except ValueError as error:
        raise ValueError(
            f"{error}. Or train without: loss.perceptual 'msgrad' and loss.repa 0 need no download"
        ) from error
    return LossNetworks(found.get("lpips_vgg"), found.get("dinov2"))


def perceptual_distance(
    weights: LossWeights, lpips: Callable[[Tensor, Tensor], Tensor] | None
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Returns (reference, estimate) in [-1, 1] -> scalar, or None where the term is off.

    The estimate is not clamped: pixels outside the range would get no gradient, and would stay there.
    """
    if weights.perceptual == "none" or weights.perceptual_weight == 0:
        return None
    if weights.perceptual == "msgrad":
        return multiscale_gradient_loss
    if lpips is None:
        raise ValueError("expected an LPIPS network for loss.perceptual 'lpips', got none: load_loss_networks loads it")
    network = lpips
    return lambda x, estimate: network((x.float() + 1) / 2, (estimate.float() + 1) / 2).float().mean()


@torch.no_grad()
def alignment_target(vision: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch tokens (B, rows x columns, D) of real images (B, 3, H, W) in [-1, 1]."""
    return vision.patch_tokens((x.float() + 1) / 2, grid).float()  # type: ignore[operator]
