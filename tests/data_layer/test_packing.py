"""A packed copy: resized training images, held-out images byte for byte, the same shards for the same images."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from ssdd.data import ImageFolder, TarImages, index_images, open_source
from ssdd.data.packing import pack
from ssdd.data.transforms import resize_short_side
from ssdd.pack_parameters import PackParameters

SMALL = PackParameters(side=24, shard_images=8)


@pytest.fixture
def packed(image_folder, tmp_path):
    source = ImageFolder(image_folder)
    index = index_images(source, held_out=0.2, progress=False).index
    pack(index, source, SMALL, tmp_path / "packed")
    return source, index, tmp_path / "packed"


def hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.tar")}


def test_training_images_are_resized_and_held_out_ones_kept(packed):
    source, index, folder = packed
    copy = TarImages(folder)
    there = index_images(copy, progress=False).index
    assert there["split"].tolist() == sorted(index["split"])
    assert there["label"].tolist() == index.sort_values("split", kind="stable")["label"].tolist()
    for split, rows in index.groupby("split"):
        for before, now in zip(rows.itertuples(), there[there["split"] == split].itertuples(), strict=True):
            if split == "validation":
                assert now.sha256 == before.sha256
            else:
                picture = source.open(before.path)
                if min(picture.size) > 24:
                    picture = resize_short_side(picture, 24, "lanczos")
                assert np.array_equal(np.asarray(copy.open(now.path)), np.asarray(picture))


def test_shards_follow_from_the_images_alone(packed, tmp_path, image_folder):
    source, index, folder = packed
    expected = hashes(folder)
    assert sorted(expected) == ["train-00000.tar", "train-00001.tar", "train-00002.tar", "validation-00000.tar"]
    for rank in (1, 0):
        pack(index, source, SMALL, tmp_path / "shared", rank, 2)
    assert hashes(tmp_path / "shared") == expected
    (folder / "train-00001.tar").unlink()  # as after a kill
    before = (folder / "train-00000.tar").stat().st_mtime_ns
    pack(index, source, SMALL, folder)
    assert hashes(folder) == expected
    assert (folder / "train-00000.tar").stat().st_mtime_ns == before


def test_jpeg_is_smaller_and_nearly_the_same(image_folder, tmp_path):
    for number in range(4):
        Image.radial_gradient("L").rotate(number).convert("RGB").save(image_folder / f"{number}.bmp")
    source = ImageFolder(image_folder)
    index = index_images(source, held_out=0, progress=False).index
    index = index[index["path"].str.endswith(".bmp")]
    for form in ("raw", "jpeg"):
        pack(index, source, PackParameters(side=128, stored_as=form), tmp_path / form)
    raw, jpeg = (TarImages(tmp_path / form) for form in ("raw", "jpeg"))
    sizes = [(tmp_path / form / "train-00000.tar").stat().st_size for form in ("raw", "jpeg")]
    assert sizes[1] < sizes[0] / 5
    for one, two in zip(raw.listing().names["train"], jpeg.listing().names["train"], strict=True):
        difference = np.asarray(raw.open(one)).astype(int) - np.asarray(jpeg.open(two)).astype(int)
        assert abs(difference).mean() < 2


def test_the_embedded_sample_can_be_packed(tmp_path):
    source = open_source("sample", train_images=3, validation_images=2, canvases=1)
    index = index_images(source, progress=False).index
    pack(index, source, PackParameters(side=300), tmp_path)
    copy = TarImages(tmp_path)
    there = index_images(copy, progress=False).index
    for before, now in zip(index["path"], there["path"], strict=True):
        assert copy.open(now).tobytes() == source.open(before).tobytes()
