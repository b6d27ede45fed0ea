"""The checks that all metrics make of their images, and `to_uint8`, the one rounding to 8 bits.

Legend: B batch, C channels, H W pixels.
"""

import torch
from torch import Tensor

REFERENCE_SLACK = 1e-3  # a resize in floating point leaves [0, 1] by rounding errors
WRONG_RANGE = 10.5  # from the middle, 0.5: values beyond [-10, 11] are no overshoot
ROUNDING = "clamp to [0, 1], times 255, round half to even, uint8"


def to_uint8(images: Tensor) -> Tensor:
    """Clamps images to [0, 1] and rounds them to 8 bits, as every metric and every writer of images must.

    Args:
        images: any shape; floats nominally in [0, 1] (values outside are clamped), or uint8, returned unchanged.

    Returns:
        uint8 of the same shape: `round(255 * clamp(images, 0, 1))`, halves to the even neighbour.

    Raises:
        ValueError: NaN or infinite values; an integer type other than uint8; more than half of the values
            beyond [-10, 11], which is no overshoot but another range (0..255).
    """
    _check_values(images)
    if images.dtype == torch.uint8:
        return images
    # bfloat16 has 8 bits of mantissa: 255 times a value would be rounded twice, the first time coarsely.
    images = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def to_unit(images: Tensor) -> Tensor:
    """Maps uint8 to float32 in [0, 1]; half precision becomes float32, float32 and float64 stay unchanged."""
    if images.dtype == torch.uint8:
        return images.float() / 255
    return images.float() if images.dtype in (torch.float16, torch.bfloat16) else images


def check_pair(reference: Tensor, reconstruction: Tensor, smallest_side: int = 1) -> None:
    """Refuses pairs that a per-image metric cannot compare: `check_shapes`, and values as in `to_uint8`.

    Raises:
        ValueError: shapes or values are not as expected.
    """
    check_shapes(reference, reconstruction, smallest_side)
    _check_values(reference)
    _check_values(reconstruction)
    check_reference_range(reference)
    check_reconstruction_range(reference, reconstruction)


def check_shapes(reference: Tensor, reconstruction: Tensor, smallest_side: int = 1) -> None:
    """Refuses pairs of shapes that a per-image metric cannot compare.

    Args:
        reference: (B, C, H, W).
        reconstruction: same shape and device.
        smallest_side: of the images, in pixels, as the metric's window needs it.

    Raises:
        ValueError: the shapes differ, are not (B, C, H, W), hold no pixel, or a side is too small.
    """
    for images in (reference, reconstruction):
        if not isinstance(images, Tensor):
            kind = type(images).__name__
            raise ValueError(f"expected tensors (B, C, H, W), got {kind}: torch.from_numpy makes one of an array")
    if reference.shape != reconstruction.shape or reference.ndim != 4 or not reference.numel():
        raise ValueError(
            f"expected two equal non-empty shapes (B, C, H, W), got {tuple(reference.shape)} and "
            f"{tuple(reconstruction.shape)}: add a batch axis to single images, crop both sides alike"
        )
    if min(reference.shape[-2:]) < smallest_side:
        raise ValueError(
            f"expected sides of at least {smallest_side} pixels, got {tuple(reference.shape[-2:])}: "
            "leave this metric out for such images"
        )


def check_reference_range(reference: Tensor) -> None:
    """Refuses float reference images outside [0, 1]: a reference cannot overshoot, so its range must be wrong.

    Raises:
        ValueError: a value lies outside [0, 1] by more than 0.001.
    """
    if reference.dtype == torch.uint8:
        return
    # No clamping here: -1..1 clamped to [0, 1] would look like a dark data set, and every metric would be wrong.
    low, high = reference.min().item(), reference.max().item()
    if low < -REFERENCE_SLACK or high > 1 + REFERENCE_SLACK:
        raise ValueError(
            f"expected reference images in [0, 1], got [{low:.3g}, {high:.3g}]: "
            "divide 0..255 by 255, map -1..1 by (x + 1) / 2"
        )


def check_reconstruction_range(reference: Tensor, reconstruction: Tensor) -> None:
    """Refuses float reconstructions in -1..1, the range of a network's output, for references in [0, 1].

    Values below 0 prove nothing by themselves: a decoder overshoots, and a barely trained one overshoots far. A wrong
    range is assumed where many values are below 0 and `(x + 1) / 2` is both much nearer to the reference than x and
    nearer than any constant.

    Args:
        reference: (B, C, H, W), uint8 or floats in [0, 1].
        reconstruction: same shape, uint8 or finite floats.

    Raises:
        ValueError: the reconstruction is the reference on another scale.
    """
    if reconstruction.dtype == torch.uint8 or (reconstruction < -0.1).double().mean() < 0.01:
        return
    clean, decoded = to_unit(reference), to_unit(reconstruction)
    error, mapped = (decoded - clean).abs().mean(), ((decoded + 1) / 2 - clean).abs().mean()
    spread = (clean - clean.mean()).abs().mean()
    if mapped < 0.25 * error and mapped < 0.5 * spread:
        low, high = decoded.min().item(), decoded.max().item()
        raise ValueError(
            f"expected reconstructions in [0, 1], got values in [{low:.3g}, {high:.3g}] that fit the references as "
            "-1..1: map them by (x + 1) / 2"
        )


def _check_values(images: Tensor) -> None:
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"expected float images in [0, 1] or uint8, got {images.dtype}: convert them first")
    if not torch.isfinite(images).all():
        raise ValueError(
            "expected finite images, got NaN or infinite values: look for the step that produced them "
            "(half precision overflow in a decoder is the usual one)"
        )
    # A decoder's dark or bright image may lie outside all over, and far outside after little training.
    outside = (images - 0.5).abs() > WRONG_RANGE
    if outside.double().mean() > 0.5:
        low, high = images.min().item(), images.max().item()
        raise ValueError(
            f"expected images in [0, 1], got values in [{low:.3g}, {high:.3g}], most of them outside: "
            "divide 0..255 by 255, map -1..1 by (x + 1) / 2"
        )
