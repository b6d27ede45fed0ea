import hashlib
import logging
import shutil
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssdd.data import ImageFolder, index_images, select
from ssdd.data.image_index import INDEX_COLUMNS, REJECTED_COLUMNS


def write(path: Path, width: int, height: int, colour: tuple[int, int, int] = (1, 2, 3)) -> None:
    Image.new("RGB", (width, height), colour).save(path)


def test_index_holds_the_facts_of_each_file(image_folder):
    result = index_images(ImageFolder(image_folder), progress=False)
    assert tuple(result.index.columns) == (*INDEX_COLUMNS, "label")
    assert tuple(result.rejected.columns) == REJECTED_COLUMNS
    assert len(result.index) == 23
    assert result.rejected.empty
    for row in result.index.itertuples():
        data = (image_folder / row.path).read_bytes()
        assert (row.bytes, row.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        with Image.open(image_folder / row.path) as image:
            assert (row.width, row.height) == image.size


def test_index_is_the_same_elsewhere_and_for_any_number_of_workers(image_folder, tmp_path):
    (image_folder / "bad.png").write_text("junk")
    shutil.copytree(image_folder, tmp_path / "other machine" / "x")
    here = index_images(ImageFolder(image_folder), progress=False)
    for workers in (1, 3):
        there = index_images(ImageFolder(tmp_path / "other machine" / "x"), workers=workers, progress=False)
        pd.testing.assert_frame_equal(here.index, there.index)
        pd.testing.assert_frame_equal(here.rejected, there.rejected)


def test_tables_survive_parquet_and_csv(image_folder, tmp_path):
    shutil.copy(image_folder / "b" / "01.png", image_folder / "new\nline, 'né 画'.png")
    (image_folder / "bad\n.png").write_text("junk")
    result = index_images(ImageFolder(image_folder), progress=False)
    for table in (result.index, result.rejected):
        table.to_parquet(tmp_path / "t.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), table)
        table.to_csv(tmp_path / "t.csv", index=False)
        assert pd.read_csv(tmp_path / "t.csv")["path"].tolist() == table["path"].tolist()


def test_too_small_and_too_long_are_rejected(tmp_path):
    for i in range(4):
        write(tmp_path / f"{i}.png", 32, 32)
    write(tmp_path / "small.png", 100, 31)
    write(tmp_path / "long.png", 32, 32 * 32 + 1)
    write(tmp_path / "just.png", 32, 32 * 32)
    result = index_images(ImageFolder(tmp_path), min_side=32, max_rejected=0.5, progress=False)
    assert dict(zip(result.rejected["path"], result.rejected["reason"], strict=True)) == {
        "small.png": "too small",
        "long.png": "too long and thin",
    }
    assert "just.png" in set(result.index["path"])


def test_bombs_are_rejected_by_the_source_limit(tmp_path):
    write(tmp_path / "a.png", 20, 20)
    write(tmp_path / "bomb.png", 20, 21)
    result = index_images(ImageFolder(tmp_path, max_pixels=400), max_rejected=0.5, progress=False)
    assert list(result.rejected["reason"]) == ["decompression bomb"]
    assert list(result.index["path"]) == ["a.png"]


def test_too_many_rejected_stop_with_the_first_ten(image_folder):
    for i in range(12):
        (image_folder / f"bad{i:02d}\n.png").write_text("junk")
    source = ImageFolder(image_folder)
    with pytest.raises(ValueError, match="12 of 35 files") as caught:
        index_images(source, max_rejected=11.9 / 35, progress=False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert lines[1].startswith(r"  'bad00\n.png': not an image (")
    assert lines[-1].startswith(r"  'bad09\n.png'")
    assert len(index_images(source, max_rejected=12 / 35, progress=False).rejected) == 12


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        index_images(ImageFolder(tmp_path), progress=False)
    (tmp_path / "a.png").write_text("junk")
    with pytest.raises(ValueError, match="1 of 1 files"):
        index_images(ImageFolder(tmp_path), max_rejected=1, progress=False)


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"min_side": 0}, {"workers": -1}, {"held_out": 1.0}, {"max_rejected": 1.1}]
)
def test_arguments_out_of_range(image_folder, options):
    with pytest.raises(ValueError, match="expected"):
        index_images(ImageFolder(image_folder), progress=False, **options)


def test_held_out_share_is_a_function_of_content(image_folder, tmp_path):
    index = index_images(ImageFolder(image_folder), held_out=0.2, progress=False).index
    held_out = set(index.loc[index["split"] == "validation", "sha256"])
    assert len(held_out) == round(0.2 * 23)
    assert (index["split"].isin(["train", "validation"])).all()

    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for i, path in enumerate(sorted(image_folder.rglob("*.png"), reverse=True)):
        shutil.copy(path, renamed / f"{i:03d}.png")
    again = index_images(ImageFolder(renamed), held_out=0.2, progress=False).index
    assert set(again.loc[again["split"] == "validation", "sha256"]) == held_out
    assert (index_images(ImageFolder(renamed), held_out=0, progress=False).index["split"] == "train").all()


def test_equal_images_are_never_on_both_sides(tmp_path, caplog):
    for i in range(30):
        write(tmp_path / f"{i}.png", 20, 20, (i % 5, 0, 0))
    with caplog.at_level(logging.INFO):
        index = index_images(ImageFolder(tmp_path), held_out=0.1, progress=False).index
    sides = index.groupby("sha256")["split"].nunique()
    assert (sides == 1).all()
    assert set(index["split"]) == {"train", "validation"}
    assert "25 of 30 images have the same content" in caplog.text


@pytest.mark.parametrize("count", [1, 2])
def test_holding_out_leaves_something_to_train_on(tmp_path, count):
    for i in range(count):
        write(tmp_path / f"{i}.png", 20, 20, (i, 0, 0))
    index = index_images(ImageFolder(tmp_path), held_out=0.99, progress=False).index
    assert (index["split"] == "train").sum() == 1


def test_limit_is_a_fixed_choice_in_order_that_grows(image_folder):
    source = ImageFolder(image_folder)
    everything = list(index_images(source, progress=False).index["path"])
    before: set[str] = set()
    for limit in (3, 9, 22, 23, 99):
        chosen = list(index_images(source, limit=limit, progress=False).index["path"])
        assert len(chosen) == min(limit, 23)
        assert chosen == [path for path in everything if path in set(chosen)]
        assert before <= set(chosen)
        before = set(chosen)
    assert list(index_images(source, limit=3, progress=False).index["path"]) != everything[:3]


def test_select(image_folder):
    index = index_images(ImageFolder(image_folder), held_out=0.2, progress=False).index
    train, validation = select(index, "train"), select(index, "validation")
    assert len(train) + len(validation) == len(select(index)) == 23
    assert list(train.index) == list(range(len(train)))
    assert len(select(index, "train", 4)) == 4
    with pytest.raises(ValueError, match="'test'"):
        select(index, "test")
    with pytest.raises(ValueError, match="sha256"):
        select(index.drop(columns="sha256"))


def test_progress_bar_reaches_the_end_on_richs_console(image_folder, monkeypatch):
    import io

    import rich
    from rich.console import Console

    shown = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console(file=shown, width=100))
    index_images(ImageFolder(image_folder))
    assert "23/23" in shown.getvalue()


def test_damaged_metadata_passes_without_a_warning(tmp_path, picture):
    picture.save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage")
    picture.save(tmp_path / "b.png")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(index_images(ImageFolder(tmp_path), progress=False).index) == 2
    assert caught == []


def test_the_pass_holds_no_images(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(tmp_path / f"{i}.bmp")
    source = ImageFolder(tmp_path)
    index_images(source, progress=False, limit=2)
    tracemalloc.start()
    index_images(source, progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 256 * 256 * 3  # a few files at a time, not the 40 of the folder
