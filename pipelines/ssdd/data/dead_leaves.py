"""Dead leaves: overlapping shapes whose sizes follow a power law, an old model of natural images.

With radii of density p(r) ~ r^-3 the picture is scale invariant, as photographs nearly are (Lee, Mumford and Huang,
"Occlusion models for natural images", 2001). The pictures are computed, so no licence restricts their use.
"""

import numpy as np
from PIL import Image, ImageDraw

_SUPERSAMPLE = 2  # Pillow draws hard edges; painting twice as large and averaging makes them smooth
_COVERAGES = 12.0  # total area of the circles around all shapes, in canvases; at 12 almost no background shows


def paint_dead_leaves(seed: int, number: int, side: int = 512, *, saturated: bool = False) -> Image.Image:
    """Paints one RGB canvas, a pure function of its arguments.

    Args:
        seed: non-negative seed of the whole set.
        number: index of the canvas within the set; it also sets the smallest radius, 3 to 8 pixels in turn.
        side: width and height, pixels.
        saturated: paint in vivid colours of a few hues, any hues, instead of grays with a little chroma.
    """
    # The first word (3) keeps this stream apart from the project's other streams with the same seed.
    rng = np.random.Generator(np.random.PCG64([3, seed, number]))
    r_min, r_max = 3.0 + number % 6, side / 3
    count = int(_COVERAGES * side**2 / _mean_area(r_min, r_max))
    radius = _radii(rng.random(count), r_min, r_max) * _SUPERSAMPLE
    centre = rng.uniform(-0.1, 1.1, (count, 2)) * side * _SUPERSAMPLE
    stretch = rng.uniform(0.6, 1.0, count)
    angle = rng.uniform(0, np.pi, count)
    corners = rng.choice([3, 4, 5, 32, 32, 32], count)  # with 32 corners a shape is round: half of them are
    palette = _saturated_palette(rng, 32) if saturated else _desaturated_palette(rng, 32)
    colour = np.clip(palette[rng.integers(0, 32, count)] + rng.normal(0, 4, (count, 3)), 0, 255).astype(np.uint8)

    canvas = Image.new("RGB", (side * _SUPERSAMPLE, side * _SUPERSAMPLE), tuple(colour[0].tolist()))
    draw = ImageDraw.Draw(canvas)
    for i in range(count):
        outline = _polygon(int(corners[i]), radius[i], stretch[i], angle[i]) + centre[i]
        draw.polygon([tuple(point) for point in outline.tolist()], fill=tuple(colour[i].tolist()))
    return canvas.reduce(_SUPERSAMPLE)


def _radii(u: np.ndarray, r_min: float, r_max: float) -> np.ndarray:
    """Returns radii with density ~ r^-3 on [r_min, r_max], for u uniform in [0, 1): the inverse of the distribution."""
    return (r_min**-2 - u * (r_min**-2 - r_max**-2)) ** -0.5


def _mean_area(r_min: float, r_max: float) -> float:
    """Returns E[pi r^2] under that density."""
    return 2 * np.pi * np.log(r_max / r_min) / (r_min**-2 - r_max**-2)


def _desaturated_palette(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns (size, 3) colours in [0, 255]: grays of any brightness, a common tint, a little chroma.

    Photographs are mostly gray; a decoder trained on saturated colours would learn the wrong statistics.
    """
    gray = rng.uniform(20, 235, (size, 1))
    tint = rng.normal(0, 7, 3)
    return np.clip(gray + tint + rng.normal(0, 11, (size, 3)), 0, 255)


def _saturated_palette(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns (size, 3) colours in [0, 255]: three hues anywhere on the circle, from pale to vivid, dark to bright.

    Three, and not one for each colour: pictures have few hues each, and the set of canvases has them all.
    """
    hue = (rng.random(3)[rng.integers(0, 3, size)] + rng.normal(0, 0.04, size)) % 1
    saturation, value = rng.uniform(0.35, 1, size), rng.uniform(0.15, 1, size)
    # hue to RGB without branches: each channel is a trapezium over the circle, a third of it apart
    place = (np.array([5, 3, 1]) + 6 * hue[:, None]) % 6
    chroma = np.clip(np.minimum(place, 4 - place), 0, 1)
    return 255 * value[:, None] * (1 - saturation[:, None] * chroma)


def _polygon(corners: int, radius: float, stretch: float, angle: float) -> np.ndarray:
    """Returns (corners, 2) points on an ellipse around the origin, rotated by `angle` radians."""
    phi = 2 * np.pi * np.arange(corners) / corners
    x, y = radius * np.cos(phi), stretch * radius * np.sin(phi)
    return np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
