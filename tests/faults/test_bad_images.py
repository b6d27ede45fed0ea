"""A folder of bad images of every kind through the real project: each rejected with a reason, and the run goes on.

Five hundred mutated files and random bytes are in test_mutated_images.py, each odd entry with its very reason in
tests/data_layer/test_image_sources.py; here all of it meets the whole pipeline.
"""

import os
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

MUTATED = 60
GOOD = 40


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width, height):
    """A PNG of a few bytes that says it has this many pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def fill_folder(root, chance):
    """Good pictures under odd names, and everything bad; returns the names of the good ones."""
    root.mkdir()
    pixels = np.random.default_rng(0)
    names = ["with space", "new\nline", "né 画", "-rf", "'; rm -rf $HOME; '", "a" * 200]
    good = [f"{names[i % len(names)]}{i}.{['png', 'jpg', 'webp', 'gif', 'tiff'][i % 5]}" for i in range(GOOD)]
    for name in good:
        Image.fromarray(pixels.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(root / name)
    for number in range(MUTATED):
        content = bytearray((root / good[number % GOOD]).read_bytes())
        del content[chance.randrange(4, len(content) // 2) :]
        content[chance.randrange(min(len(content), 30))] ^= 0xFF
        (root / f"mutated{number}{os.path.splitext(good[number % GOOD])[1]}").write_bytes(content)
    for number, side in enumerate((50_000, 2**20, 2**31 - 1)):
        (root / f"bomb{number}.png").write_bytes(bomb(side, side))
    (root / "x.png").mkdir()
    (root / "loop.png").symlink_to("loop.png")
    (root / "up").symlink_to(".")
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "empty.png").touch()
    (root / os.fsdecode(b"latin\xe9.png")).touch()
    os.mkfifo(root / "pipe.png")
    return good


@pytest.fixture
def folder(tmp_path, chance):
    return tmp_path / "images", fill_folder(tmp_path / "images", chance)


def test_a_folder_of_bad_images_is_prepared_and_the_run_goes_on(runs, folder, tally):
    root, good = folder
    settings = f"data.kind=folder,data.root={root},prepare.max_rejected=0.9,prepare.held_out=0.3,runtime.progress=false"
    code, said = runs.run("bad-images", "--to-nodes=z_stats.compute_latent_statistics", settings=settings)
    assert code == 0, said
    made = runs.folder("bad-images")
    index, rejected = pd.read_parquet(made / "images/index.parquet"), pd.read_csv(made / "images/rejected.csv")
    assert set(good) <= set(index["path"])
    assert (made / "models/latent_stats.json").is_file()  # trained on what is good
    told = dict(zip(rejected["path"], rejected["reason"], strict=True))
    assert all(told.values())
    odd = ("x.png", "loop.png", "gone.png", "empty.png", "pipe.png", "up", *(f"bomb{i}.png" for i in range(3)))
    assert set(odd) <= set(told)
    assert {told[f"bomb{i}.png"] for i in range(3)} == {"decompression bomb"}
    assert len(index) + len(rejected) == GOOD + MUTATED + len(odd) + 1  # and the name that is not Unicode
    tally("bad images", tried=len(rejected), survived=len(rejected))
