"""The training losses of a decoder: flow matching, representation alignment, a perceptual term without weights.

All losses are computed in float32 at least and return a mean over the batch.
"""

# B batch, H W pixels, N tokens, D feature width

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdd_decoder.flow import target_velocity

COSINE_EPS = 1e-5


def flow_matching_loss(velocity: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """Mean over all elements of (v - (x - eps))^2; all arguments (B, 3, H, W).

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(velocity, x, noise)
    return F.mse_loss(_wide(velocity), target_velocity(_wide(x), _wide(noise)))


def alignment_loss(projected: Tensor, target: Tensor) -> Tensor:
    """One minus the mean cosine similarity of projected tokens and a frozen vision model's patch tokens.

    Representation alignment: Yu et al. (2024).

    Args:
        projected, target: (B, N, D).

    Raises:
        ValueError: the shapes differ.
    """
    _check_shapes(projected, target)
    return 1 - F.cosine_similarity(_wide(projected), _wide(target), dim=-1, eps=COSINE_EPS).mean()


def multiscale_gradient_loss(x: Tensor, estimate: Tensor, scales: int = 3) -> Tensor:
    """L1 of pixels plus L1 of their horizontal and vertical differences, averaged over scales halved each time.

    A perceptual term that needs no pretrained network ("msgrad").

    Args:
        x, estimate: (B, 3, H, W).
        scales: halvings plus one; scales with fewer than 2 pixels per side are dropped.

    Raises:
        ValueError: the shapes differ, or a side has fewer than 2 pixels.
    """
    _check_shapes(x, estimate)
    if min(x.shape[2:]) < 2:
        raise ValueError(f"expected images of at least 2 x 2 pixels, got {tuple(x.shape)}: differences need two")
    x, estimate = _wide(x), _wide(estimate)
    terms = []
    for scale in range(scales):
        if scale:
            if min(x.shape[2:]) < 4:
                break
            x, estimate = F.avg_pool2d(x, 2), F.avg_pool2d(estimate, 2)
        difference = estimate - x
        terms.append(
            difference.abs().mean() + difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
        )
    return torch.stack(terms).mean()


class AlignmentHead(nn.Module):
    """Projects the network's tokens to the vision model's width; trained with the decoder but not part of it."""

    def __init__(self, width: int, feature_width: int = 768) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, feature_width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N_y, N_x, D) -> (B, N_y N_x, feature width)."""
        return self.layers(tokens.flatten(1, 2))


def alignment_layer(transformer_blocks: int) -> int:
    """Returns the index of the transformer block whose tokens are aligned."""
    return min(4, transformer_blocks // 2)


def _check_shapes(*tensors: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1:
        raise ValueError(f"expected tensors of one shape, got {shapes}: they must describe the same images")


def _wide(x: Tensor) -> Tensor:
    # Means over millions of elements: bfloat16 would keep two or three digits of them.
    return x.to(torch.promote_types(x.dtype, torch.float32))


def patch_border_loss(x: Tensor, estimate: Tensor, patch: int) -> Tensor:
    """L1 distance between the steps of two images across the borders of patches: a scalar, 0 for equal steps.

    Networks that put out pixels in patches leave a grid of small steps, which a mean over all pixels hardly counts.

    Args:
        x: (B, 3, H, W), the reference.
        estimate: (B, 3, H, W).
        patch: side of the patches, in pixels; at least 2, less than H and W.
    """
    error = estimate.float() - x.float()
    down = error[:, :, patch::patch] - error[:, :, patch - 1 : -1 : patch]
    across = error[..., patch::patch] - error[..., patch - 1 : -1 : patch]
    return (down.abs().mean() + across.abs().mean()) / 2
