"""Recolouring as an augmentation: hue, saturation and value of a whole picture.

A small set of photographs has few colours. A colour that is not in the training images comes out gray, so some training
images are turned to other hues and made paler or more vivid.
"""

import math
from collections.abc import Sequence

from PIL import Image

Range = tuple[float, float]


def recolour(
    image: Image.Image,
    u: Sequence[float],
    *,
    probability: float = 0.3,
    hue: float = 1.0,
    saturation: Range = (0.4, 2.2),
    value: Range = (0.7, 1.25),
) -> Image.Image:
    """Returns the picture with its colours changed, or the picture itself; a pure function of its arguments.

    Saturation and value are multiplied and cut off at their largest level. Gray stays gray, for it has no hue.

    Args:
        image: RGB.
        u: four numbers in [0, 1): whether to recolour, then the place of hue, saturation and value in their ranges.
        probability: share of the pictures that are recoloured, in [0, 1].
        hue: the hue turns by an angle within this share of the circle, half of it to each side; in [0, 1], where 1
            allows any angle and 0 keeps the hue.
        saturation: smallest and largest factor, both above 0; factors in between are spread evenly over octaves.
        value: the same for the value, the largest of the three channels.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(u, probability, hue, saturation, value)
    if u[0] >= probability:
        return image
    turn = round((u[1] - 0.5) * hue * 256)
    hues, saturations, values = image.convert("HSV").split()
    channels = (
        hues.point([(level + turn) % 256 for level in range(256)]),
        saturations.point(_scaled(_between(saturation, u[2]))),
        values.point(_scaled(_between(value, u[3]))),
    )
    return Image.merge("HSV", channels).convert("RGB")


def check_factors(name: str, factors: Range) -> None:
    """Raises ValueError unless `factors` are two finite numbers above 0 in ascending order."""
    if len(factors) != 2 or not 0 < factors[0] <= factors[1] < math.inf:
        raise ValueError(f"expected {name} to be a smallest and a largest factor above 0, got {tuple(factors)}")


def _check(u: Sequence[float], probability: float, hue: float, saturation: Range, value: Range) -> None:
    if len(u) != 4 or not all(0 <= number < 1 for number in u):
        raise ValueError(f"expected four numbers in [0, 1), got {tuple(u)}")
    if not 0 <= probability <= 1 or not 0 <= hue <= 1:
        raise ValueError(f"expected probability and hue in [0, 1], got {probability} and {hue}")
    check_factors("saturation", saturation)
    check_factors("value", value)


def _between(factors: Range, u: float) -> float:
    """Returns the factor at the place u of its range: halving is as likely as doubling."""
    smallest, largest = factors
    return smallest * (largest / smallest) ** u


def _scaled(factor: float) -> list[int]:
    """Returns the level that each of the 256 levels becomes."""
    return [min(255, round(level * factor)) for level in range(256)]
