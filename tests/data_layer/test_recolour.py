"""Recolouring: a pure function of picture and numbers, checked against hue, saturation and value of Python itself."""

import colorsys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssdd.data.dead_leaves import paint_dead_leaves
from ssdd.data.recolour import recolour

ALWAYS = {"probability": 1.0, "hue": 0.0, "saturation": (1.0, 1.0), "value": (1.0, 1.0)}
LEVELS = 6  # a step of the 8-bit hue, which Pillow rounds down
unit = st.floats(0, 1, exclude_max=True)


def colours(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8))


def vivid() -> Image.Image:
    """Every hue, at a saturation and a value that leave room on both sides."""
    rgb = [colorsys.hsv_to_rgb(hue / 64, 0.4, 0.5) for hue in range(64)]
    return Image.fromarray(np.rint(np.array(rgb).reshape(8, 8, 3) * 255).astype(np.uint8))


def hsv(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).reshape(-1, 3) / 255
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels])


def apart(a: np.ndarray, b: np.ndarray) -> float:
    """Largest distance of two hues, around the circle."""
    return float(np.abs((a - b + 0.5) % 1 - 0.5).max())


@settings(max_examples=30, deadline=None)
@given(u=st.tuples(unit, unit, unit, unit), seed=st.integers(0, 9))
def test_result_depends_on_picture_and_numbers_alone(u, seed):
    image = colours(seed)
    before = image.tobytes()
    first = recolour(image, u, probability=1)
    np.random.seed(seed)  # noqa: NPY002
    assert recolour(colours(seed), u, probability=1).tobytes() == first.tobytes()
    assert (first.mode, first.size) == ("RGB", image.size)
    assert image.tobytes() == before


@pytest.mark.parametrize(("number", "changed"), [(0.0, True), (0.29, True), (0.3, False), (0.99, False)])
def test_first_number_decides(number, changed):
    image = vivid()
    result = recolour(image, (number, 0.1, 0.1, 0.1), probability=0.3)
    assert (result is not image) == changed
    assert (result.tobytes() != image.tobytes()) == changed


def test_nothing_to_change_changes_little():
    image = colours()
    difference = np.asarray(recolour(image, (0, 0.7, 0.2, 0.9), **ALWAYS)).astype(int) - np.asarray(image)
    assert np.abs(difference).max() <= LEVELS
    assert np.abs(difference).mean() < 1


@pytest.mark.parametrize(("u", "turn"), [(0.0, -0.5), (0.25, -0.25), (0.5, 0.0), (0.75, 0.25)])
def test_hue_turns_and_nothing_else(u, turn):
    image = vivid()
    before, after = hsv(image), hsv(recolour(image, (0, u, 0.5, 0.5), **(ALWAYS | {"hue": 1.0})))
    assert apart(after[:, 0], before[:, 0] + turn) < 0.02
    assert np.abs(after[:, 1:] - before[:, 1:]).max() < 0.02


def test_hue_turns_within_its_share_of_the_circle():
    image = vivid()
    turns = [
        apart(hsv(recolour(image, (0, u, 0.5, 0.5), **(ALWAYS | {"hue": 0.2})))[:, 0], hsv(image)[:, 0])
        for u in (0.0, 0.999)
    ]
    assert turns == pytest.approx([0.1, 0.1], abs=0.02)


@pytest.mark.parametrize(("name", "channel"), [("saturation", 1), ("value", 2)])
@pytest.mark.parametrize(("u", "factor"), [(0.0, 0.5), (0.5, 0.5**0.5 * 1.6**0.5), (0.999, 1.6)])
def test_saturation_and_value_are_multiplied(name, channel, u, factor):
    image = vivid()
    numbers = [0, 0.5, 0.25, 0.25]
    numbers[channel + 1] = u
    before, after = hsv(image), hsv(recolour(image, numbers, **(ALWAYS | {name: (0.5, 1.6)})))
    assert after[:, channel] == pytest.approx(before[:, channel] * factor, abs=0.02)
    assert after[:, 3 - channel] == pytest.approx(before[:, 3 - channel], abs=0.02)
    assert apart(after[:, 0], before[:, 0]) < 0.03


def test_largest_levels_are_cut_off_and_gray_stays_gray():
    image = Image.fromarray(np.array([[[200, 10, 10], [90, 90, 90]]], dtype=np.uint8))
    red, gray = np.asarray(recolour(image, (0, 0.8, 0.9, 0.9), **(ALWAYS | {"hue": 1.0, "value": (9.0, 9.0)})))[0]
    assert red.max() == 255
    assert len(set(gray.tolist())) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"u": (0.1, 0.2, 0.3)},
        {"u": (0.1, 0.2, 0.3, 1.0)},
        {"u": (-0.1, 0.2, 0.3, 0.4)},
        {"probability": 1.1},
        {"probability": float("nan")},
        {"hue": -0.1},
        {"saturation": (0.0, 1.0)},
        {"saturation": (2.0, 1.0)},
        {"value": (0.5, float("inf"))},
        {"value": (0.5,)},
    ],
)
def test_wrong_numbers_are_named(arguments):
    with pytest.raises(ValueError, match=r"expected .* got"):
        recolour(**({"image": vivid(), "u": (0.5, 0.5, 0.5, 0.5)} | arguments))


def test_saturated_leaves_have_every_hue_and_plain_ones_stay_as_they_are():
    plain, saturated = (
        [hsv(paint_dead_leaves(0, number, 64, saturated=flag)) for number in range(12)] for flag in (False, True)
    )
    assert np.median(np.concatenate(plain)[:, 1]) < 0.3 < 0.5 < np.median(np.concatenate(saturated)[:, 1])
    hues = np.concatenate([canvas[canvas[:, 1] > 0.35, 0] for canvas in saturated])
    shares = np.histogram(hues, bins=6, range=(0, 1))[0] / len(hues)
    assert shares.min() > 0.03
    assert paint_dead_leaves(0, 3, 64).tobytes() == paint_dead_leaves(0, 3, 64, saturated=False).tobytes()
    assert (
        paint_dead_leaves(1, 2, 64, saturated=True).tobytes() == paint_dead_leaves(1, 2, 64, saturated=True).tobytes()
    )
