"""Pictures whose right pixels are known, and folders of them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """A smooth colour picture, 60 x 40, different in each corner (so that every turn of it shows)."""
    y, x = np.mgrid[0:40, 0:60] / 60.0
    channels = [np.sin(5 * x + 2 * y), np.cos(3 * x * y + y), np.sin(7 * y - x)]
    return Image.fromarray(np.stack([127.5 + 110 * c for c in channels], axis=-1).round().astype(np.uint8))


@pytest.fixture(scope="session")
def encode() -> Encode:
    def to_bytes(image: Image.Image, image_format: str = "PNG", **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, image_format, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """23 different pictures of different sizes in nested class folders."""
    root = tmp_path / "images"
    rng = np.random.default_rng(0)
    for i in range(23):
        folder = root / ("b" if i % 3 else "a/deep")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + i, 40 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return root
