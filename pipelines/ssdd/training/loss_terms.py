"""The terms of the decoder's loss. A new term is a function here, an entry in `TERMS`, and its weight in `LossWeights`.

Two terms are not in the list, because they are more than a function of the estimate: the adversarial one, which has an
optimiser of its own, and the encoder's KL divergence. Both are in `steps.py`.
"""

# B batch, H W pixels, N_y N_x tokens, D token width

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ssdd.parameters import LossWeights
from ssdd.training.loss_networks import LossNetworks, alignment_target, perceptual_distance
from ssdd_decoder import DecoderConfig
from ssdd_decoder.losses import AlignmentHead, alignment_loss, patch_border_loss


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The decoder's result for one piece of a batch, and the images that it is compared with.

    Args:
        flow: scalar, the flow-matching loss.
        target: (B, 3, H, W), the images that the estimate should equal: real ones, or the teacher's in distillation.
        image: (B, 3, H, W), the estimate of the clean image, x0_pred.
        tokens: (B, N_y, N_x, D) of the decoder; None if no term uses them.
        real: (B, 3, H, W), the real images; None if no term uses them.
        x_t, t: the decoder's input; (B, 3, H, W) and (B,).
        step: finished optimiser steps.
    """

    flow: Tensor
    target: Tensor
    image: Tensor
    tokens: Tensor | None
    real: Tensor | None
    x_t: Tensor
    t: Tensor
    step: int


@dataclass(frozen=True, kw_only=True)
class LossTerm:
    """One term of the decoder's loss.

    Args:
        name: column of the history.
        weight: factor in the total.
        loss: scalar of an estimate.
        modules: networks of the term by name; they become children of the step. Trainable ones train along.
        needs_real: the term uses `Estimate.real`: distillation from cached targets then loads the images too.
    """

    name: str
    weight: float
    loss: Callable[[Estimate], Tensor]
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    needs_real: bool = False


def flow_matching_term(weights: LossWeights, decoder: DecoderConfig, networks: LossNetworks) -> LossTerm:
    """The velocity's squared error, which the step has computed; never off."""
    return LossTerm(name="flow_matching", weight=weights.flow_matching, loss=lambda estimate: estimate.flow)


def perceptual_term(weights: LossWeights, decoder: DecoderConfig, networks: LossNetworks) -> LossTerm | None:
    """LPIPS or multi-scale gradients between the estimate and its target, or the real image.

    The two differ only in distillation. The teacher's image keeps the student faithful to the teacher; the real image
    lets it become better than the teacher, whose own blur is then no longer the aim.
    """
    distance = perceptual_distance(weights, networks.lpips)
    if distance is None:
        return None
    on_real = weights.perceptual_target == "image"

    def loss(estimate: Estimate) -> Tensor:
        return distance(_wanted(estimate, on_real), estimate.image)

    return LossTerm(
        name=weights.perceptual,
        weight=weights.perceptual_weight,
        loss=loss,
        modules={} if networks.lpips is None else {"lpips": networks.lpips},
        needs_real=on_real,
    )


def border_term(weights: LossWeights, decoder: DecoderConfig, networks: LossNetworks) -> LossTerm | None:
    """Errors of the steps across the borders of patches, against the grid that patches leave in smooth regions.

    A decoder of pixels, as the published ones are, has no patches: for it the term is off.
    """
    if weights.border == 0 or decoder.patch_size == 1:
        return None
    on_real = weights.perceptual_target == "image"

    def loss(estimate: Estimate) -> Tensor:
        return patch_border_loss(_wanted(estimate, on_real), estimate.image, decoder.patch_size)

    return LossTerm(name="border", weight=weights.border, loss=loss, needs_real=on_real)


def alignment_term(weights: LossWeights, decoder: DecoderConfig, networks: LossNetworks) -> LossTerm | None:
    """Alignment of the decoder's tokens with a vision network's tokens of the real image.

    Raises:
        ValueError: the decoder has no transformer blocks, or there is no vision network.
    """
    if weights.repa == 0:
        return None
    blocks, vision = decoder.transformer_blocks, networks.vision
    if blocks == 0 or vision is None:
        raise ValueError(
            "expected a decoder with transformer blocks and a vision network for loss.repa, got "
            f"{blocks} blocks and {vision}: set loss.repa to 0"
        )
    head = AlignmentHead(decoder.widths[-1], int(vision.features))  # type: ignore[arg-type]

    def loss(estimate: Estimate) -> Tensor:
        assert estimate.tokens is not None
        assert estimate.real is not None
        grid = (estimate.tokens.shape[1], estimate.tokens.shape[2])
        return alignment_loss(head(estimate.tokens), alignment_target(vision, estimate.real, grid))

    return LossTerm(
        name="repa",
        weight=weights.repa,
        loss=loss,
        modules={"alignment_head": head, "vision": vision},
        needs_real=True,
    )


def _wanted(estimate: Estimate, on_real: bool) -> Tensor:
    """Returns the images that a term compares the estimate with: the real ones, or the targets."""
    if not on_real:
        return estimate.target
    assert estimate.real is not None
    return estimate.real


# The order is that of the additions and of the history's columns: another order rounds the total's last digit another
# way, and a run could not resume bit for bit from a state of the version before.
TERMS = (flow_matching_term, perceptual_term, alignment_term, border_term)


def build_terms(weights: LossWeights, decoder: DecoderConfig, networks: LossNetworks) -> list[LossTerm]:
    """Returns the terms that are on, in order; new heads are drawn from torch's global random state."""
    terms = [build(weights, decoder, networks) for build in TERMS]
    return [term for term in terms if term is not None]
