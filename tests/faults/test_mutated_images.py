"""Mutated files of five formats: each is indexed or rejected with a reason, and `index_images` goes on."""

import random
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ssdd.data import EvalTransform, ImageDataset, ImageFolder, Reason, index_images

FORMATS = {
    "png": [("PNG", {}), ("PNG", {"optimize": True})],
    "jpg": [("JPEG", {"quality": 90}), ("JPEG", {"progressive": True})],
    "webp": [("WEBP", {}), ("WEBP", {"lossless": True})],
    "gif": [("GIF", {})],
    "tiff": [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "jpeg"})],
}


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Cuts, flips, zeroes, overwrites, swaps or inserts bytes, or writes extreme numbers."""
    bad = bytearray(data)
    start = rng.randrange(len(bad)) if rng.random() < 0.6 else rng.randrange(min(200, len(bad)))
    length = rng.randrange(1, 64)
    kind = rng.choice(["cut", "flip", "zero", "random", "swap", "insert", "extreme", "nothing"])
    if kind == "cut":
        del bad[start:]
    elif kind == "flip":
        for _ in range(rng.randrange(1, 9)):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        bad[start : start + length] = bytes(len(bad[start : start + length]))
    elif kind == "random":
        bad[start : start + length] = rng.randbytes(len(bad[start : start + length]))
    elif kind == "swap":
        other = rng.randrange(len(bad))
        bad[start : start + length], bad[other : other + length] = (
            bad[other : other + length],
            bad[start : start + length],
        )
    elif kind == "insert":
        bad[start:start] = rng.randbytes(length)
    elif kind == "extreme":
        bad[start : start + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x80"])
    return bytes(bad)


def encode(picture: Image.Image, image_format: str, **options) -> bytes:
    file = BytesIO()
    picture.save(file, image_format, **options)
    return file.getvalue()


def build(root, count: int, rng: random.Random) -> None:
    pixels = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3) + 20 * np.sin(np.arange(60))[None, :, None]
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    modes = ["RGB", "L", "P", "RGBA", "CMYK"]
    for i in range(count):
        suffix = rng.choice(list(FORMATS))
        image_format, options = rng.choice(FORMATS[suffix])
        mode = rng.choice(modes)
        if (mode == "CMYK" and suffix not in ("jpg", "tiff")) or options.get("compression") == "jpeg":
            mode = "RGB"
        if suffix == "jpg" and mode in ("P", "RGBA"):
            mode = "L"
        if suffix == "webp" and mode == "P":
            mode = "RGBA"
        name = f"{i:03d}{rng.choice(['', ' with space', chr(10) + 'newline', ' né 画'])}.{suffix}"
        (root / name).write_bytes(mutate(encode(picture.convert(mode), image_format, **options), rng))


@pytest.mark.filterwarnings("ignore")
def test_five_hundred_mutated_files(tmp_path, chance, tally):
    build(tmp_path, 500, chance)
    source = ImageFolder(tmp_path, max_pixels=1_000_000)
    result = index_images(source, max_rejected=1, held_out=0, workers=2, progress=False)

    names = {path.name for path in tmp_path.iterdir()}
    assert set(result.index["path"]) | set(result.rejected["path"]) == names
    assert not set(result.index["path"]) & set(result.rejected["path"])
    assert set(result.rejected["reason"]) <= set(Reason)
    assert (result.rejected["detail"].str.len() > 0).all()
    assert len(result.index) > 60  # 1 in 8 is not mutated
    assert len(result.rejected) > 150

    dataset = ImageDataset(result.index, source, EvalTransform(im_size=8))
    for i in range(len(dataset)):  # what is in the index loads
        assert dataset[i]["image"].shape == (3, 8, 8)
    reasons = result.rejected["reason"].value_counts().to_dict()
    tally("mutated images", tried=500, survived=500, usable=len(result.index), **reasons)


@pytest.mark.filterwarnings("ignore")
def test_random_bytes_behind_every_signature(tmp_path, chance, tally):
    starts = [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xd8\xff\xe0",
        b"RIFF\0\0\1\0WEBPVP8 ",
        b"GIF89a",
        b"II*\0\b\0\0\0",
        b"BM",
        b"P6\n",
        b"",
    ]
    for i in range(400):
        (tmp_path / f"{i}.png").write_bytes(chance.choice(starts) + chance.randbytes(chance.randrange(400)))
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "good.png")
    result = index_images(ImageFolder(tmp_path, max_pixels=1_000_000), max_rejected=1, progress=False)
    assert len(result.index) + len(result.rejected) == 401
    assert "good.png" in set(result.index["path"])
    tally("random bytes", tried=400, survived=400)
