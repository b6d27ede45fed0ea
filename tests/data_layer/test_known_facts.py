"""A pass over images that were read before: only what is new or has changed is read, and the index is the same."""

import os
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssdd.data import ImageFolder, ImageNetFolder, index_images, select
from ssdd.data.known_facts import KnownFacts

RANKS = """
import sys, torch.distributed as distributed
from ssdd.data import ImageFolder, index_images
from ssdd.data.examiners import Examiners
from ssdd.processes import join_group

rank, ranks = join_group()
source = ImageFolder(sys.argv[1])
workers = int(sys.argv[2])
if rank:
    with Examiners(source, workers, rank, ranks) as examiners:
        examiners.serve()
else:
    index_images(source, workers=workers, ranks=ranks, max_rejected=1, progress=False).index.to_parquet(sys.argv[3])
distributed.destroy_process_group()
"""


class Counting(ImageFolder):
    """Remembers the names that were opened."""

    def __init__(self, root):
        super().__init__(root)
        self.opened = []

    def read(self, path):
        self.opened.append(path)
        return super().read(path)


class Breaking(ImageFolder):
    def read(self, path):
        if path.endswith("17.png"):
            raise KeyboardInterrupt
        return super().read(path)


class Dying(ImageFolder):
    def read(self, path):
        if path.endswith("17.png"):
            os._exit(9)
        return super().read(path)


def index_of(source, known=None, **options):
    return index_images(source, progress=False, max_rejected=1, known=known, **options).index


@pytest.fixture
def facts(tmp_path):
    def open_facts(place="here", method="a", **options):
        return KnownFacts(tmp_path / "facts.sqlite", place, method, **options)

    return open_facts


def test_a_second_pass_reads_only_new_and_changed_images(image_folder, facts):
    (image_folder / "bad.png").write_text("junk")
    first = index_of(ImageFolder(image_folder), facts())
    same = Counting(image_folder)
    pd.testing.assert_frame_equal(index_of(same, facts()), first)
    assert same.opened == ["bad.png"]  # its failure may have been the disk's
    Image.new("RGB", (30, 30), "red").save(image_folder / "new.png")
    before = os.stat(image_folder / "b/01.png")
    Image.new("RGB", (21, 39), "blue").save(image_folder / "b/01.png")
    os.utime(image_folder / "b/01.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` and `rsync -t` do
    (image_folder / "b/02.png").unlink()
    again = Counting(image_folder)
    index = index_of(again, facts())
    assert again.opened == ["bad.png", "new.png", "b/01.png"]
    pd.testing.assert_frame_equal(index, index_of(ImageFolder(image_folder)))


@pytest.mark.parametrize("other", [{"method": "b"}, {"place": "there"}, {"anew": True}])
def test_facts_of_other_code_or_another_place_do_not_count(image_folder, facts, other):
    index_of(ImageFolder(image_folder), facts())
    source = Counting(image_folder)
    index_of(source, facts(**other))
    assert len(source.opened) == 23


def test_an_interrupted_pass_goes_on(image_folder, facts, monkeypatch):
    monkeypatch.setattr("ssdd.data.examiners.TASKS", 1)
    monkeypatch.setattr("ssdd.data.examiners.TASK", 4)
    with pytest.raises(KeyboardInterrupt):
        index_of(Breaking(image_folder), facts())
    source = Counting(image_folder)
    index = index_of(source, facts())
    assert 0 < len(source.opened) < 23
    pd.testing.assert_frame_equal(index, index_of(ImageFolder(image_folder)))


def test_a_damaged_or_busy_cache_costs_time_alone(image_folder, facts, tmp_path):
    expected = index_of(ImageFolder(image_folder), facts())
    with sqlite3.connect(tmp_path / "facts.sqlite") as busy:
        busy.execute("BEGIN EXCLUSIVE")
        pd.testing.assert_frame_equal(index_of(ImageFolder(image_folder), facts()), expected)
    busy.close()
    (tmp_path / "facts.sqlite").write_bytes(b"no database" * 100)
    pd.testing.assert_frame_equal(index_of(ImageFolder(image_folder), facts()), expected)
    pd.testing.assert_frame_equal(index_of(ImageFolder(image_folder), facts()), expected)


def test_a_killed_worker_is_named(image_folder):
    with pytest.raises(ChildProcessError, match=r"was killed.*lower runtime\.workers"):
        index_of(Dying(image_folder), workers=2)


@pytest.mark.slow
def test_ranks_of_torchrun_share_the_pass(image_folder, tmp_path):
    (image_folder / "bad.png").write_text("junk")
    (tmp_path / "pass.py").write_text(RANKS)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [str(tmp_path / "pass.py"), str(image_folder), "1", str(tmp_path / "index.parquet")]
    done = subprocess.run([*torchrun, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "index.parquet"), index_of(ImageFolder(image_folder)))


def test_labels_number_the_classes_in_the_order_of_their_names(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train/n02/x/1.png", "train/n01/1.png", "train/1.png", "val/n02/1.png", "val/n10/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(tmp_path / name)
    index = index_of(ImageNetFolder(tmp_path))
    assert dict(zip(index["path"], index["label"], strict=True)) == {
        "train/1.png": -1,
        "train/n01/1.png": 0,
        "train/n02/x/1.png": 1,
        "val/n02/1.png": 1,
        "val/n10/1.png": 2,
    }
    assert set(index_of(ImageFolder(tmp_path / "val/n02"))["label"]) == {-1}


def test_an_index_without_labels_is_still_read(image_folder, tmp_path):
    index = index_of(ImageFolder(image_folder))
    assert len(select(index.drop(columns="label"))) == 23


def test_the_index_of_a_copy_has_the_same_bytes(image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "copy")
    (tmp_path / "copy" / ".hidden.png").write_text("junk")
    index = index_of(ImageFolder(image_folder), workers=2)
    index.to_parquet(tmp_path / "a.parquet")
    index_of(ImageFolder(tmp_path / "copy")).to_parquet(tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
