"""Folders of images through a model: names, sizes, pixels, reasons, and nothing that depends on the company."""

import csv
import os
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from ssdd.data import decode_image
from ssdd.imaging.canvas import batches, pad, padded_side
from ssdd.imaging.encode_decode import reconstruct_folder
from ssdd.imaging.picture_files import find_images, output_names


def pixels(file):
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def rejected(out):
    with open(out / "rejected.csv", newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def tree(folder):
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_good_files_come_back_whole_and_bad_ones_are_listed(folder, tmp_path, lossless, good, bad):
    before = {name: (folder / name).read_bytes() for name in tree(folder)}
    done = reconstruct_folder(lossless(), folder, tmp_path / "out", progress=False)
    names = {name: PurePosixPath(name).with_suffix(".png").as_posix() for name in good}
    assert tree(tmp_path / "out") == sorted([*names.values(), "rejected.csv"])
    assert done.written == sorted(names.values())
    for name, output in names.items():
        want = np.asarray(decode_image(good[name]))
        assert np.array_equal(pixels(tmp_path / "out" / output), want), name
    assert pixels(tmp_path / "out/odd.png").shape == (33, 517, 3)
    assert pixels(tmp_path / "out/turned.png").shape == (48, 20, 3)  # upright
    assert np.array_equal(pixels(tmp_path / "out/half.png")[0, 0], [204] * 3)  # black, a fifth opaque, on white
    assert rejected(tmp_path / "out") == bad
    assert {name: (folder / name).read_bytes() for name in tree(folder)} == before


def test_images_of_equal_padded_size_share_a_batch(folder, tmp_path, lossless):
    model = lossless()
    reconstruct_folder(model, folder, tmp_path / "out", batch_size=4, progress=False)
    assert sorted(model.batches) == [(1, 3, 64, 520), (1, 3, 72, 64), (3, 3, 64, 64), (4, 3, 64, 64)]


def test_the_noise_of_an_image_is_its_own(small, tmp_path, lossless):
    def run(out, **options):
        reconstruct_folder(lossless(noise=0.3), small, tmp_path / out, progress=False, **options)
        return {name: pixels(tmp_path / out / name) for name in ("a.png", "b/c.png", "d.png")}

    together, alone, other = run("1", batch_size=3), run("2", batch_size=1), run("3", seed=1)
    for name, want in together.items():
        assert np.array_equal(alone[name], want)
        assert not np.array_equal(other[name], want)
    (small / "a.png").unlink()
    reconstruct_folder(lossless(noise=0.3), small, tmp_path / "4", progress=False)
    assert np.array_equal(pixels(tmp_path / "4/d.png"), together["d.png"])
    (small / "d.png").rename(small / "e.png")
    reconstruct_folder(lossless(noise=0.3), small, tmp_path / "5", progress=False)
    assert not np.array_equal(pixels(tmp_path / "5/e.png"), together["d.png"])


def test_values_beyond_the_range_are_clamped(small, tmp_path, lossless):
    reconstruct_folder(lossless(noise=50), small, tmp_path / "out", progress=False)
    levels = pixels(tmp_path / "out/a.png")
    assert {0, 255} <= set(levels.flatten().tolist())


def test_an_input_is_never_overwritten(small, tmp_path, lossless):
    with pytest.raises(ValueError, match="other than the input's"):
        reconstruct_folder(lossless(), small, small, progress=False)
    (small / "small").mkdir()  # the result of small/a.png, below the parent of small, would be small/a.png
    (small / "small/a.png").write_bytes((small / "a.png").read_bytes())
    (tmp_path / "way").symlink_to(small, target_is_directory=True)
    before = {name: (small / name).read_bytes() for name in tree(small)}
    with pytest.raises(ValueError, match="apart from the images"):
        reconstruct_folder(lossless(), small, tmp_path, progress=False)
    with pytest.raises(ValueError, match="other than the input's"):
        reconstruct_folder(lossless(), small, tmp_path / "way", progress=False)
    assert {name: (small / name).read_bytes() for name in tree(small)} == before


def test_an_output_folder_inside_the_input_is_not_searched(small, lossless):
    for _ in range(2):
        done = reconstruct_folder(lossless(), small, small / "out", progress=False)
        assert done.written == ["a.png", "b/c.png", "d.png"]
        assert done.rejected == []
    assert rejected(small / "out") == {}


def test_names_that_differ_in_their_suffix_alone_keep_it(tmp_path):
    assert output_names(["a.jpg", "b.jpg", "b.webp", "c/b.jpg"]) == ["a.png", "b.jpg.png", "b.webp.png", "c/b.png"]
    names = ["a.jpg", "a.png", "a.jpg.webp", "a.v2.jpg"]
    assert output_names(names) == ["a.jpg.png", "a.png.png", "a.jpg.webp.png", "a.v2.png"]


def test_a_folder_without_images_is_an_error(tmp_path, lossless):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="found none: check"):
        reconstruct_folder(lossless(), tmp_path / "in", tmp_path / "out", progress=False)
    (tmp_path / "in/x.txt").write_text("x")
    with pytest.raises(ValueError, match=r"none among 1 other file; the first, 'x\.txt': not an image"):
        reconstruct_folder(lossless(), tmp_path / "in", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["loop", "pipe", "folder", "dangling"])
def test_what_is_no_file_is_listed_too(small, tmp_path, lossless, kind):
    place = small / "x.png"
    (small / "b/notes.txt").write_text("text")
    if kind == "loop":
        (small / "b/again").symlink_to(small, target_is_directory=True)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
        (place / "inner.txt").write_text("x")
    else:
        place.symlink_to(small / "nowhere.png")
    done = reconstruct_folder(lossless(), small, tmp_path / "out", progress=False)
    assert done.written == ["a.png", "b/c.png", "d.png"]
    assert len(done.rejected) == 2
    assert [bad.path for bad in done.rejected if bad.path.endswith(".txt")] == ["b/notes.txt"]


def test_two_places_may_not_name_two_images_alike(small, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="different names"):
        find_images([small, tmp_path / "other/a.png"])
    found, _ = find_images([small / "b", small / "a.png"])
    assert [item.name for item in found] == ["c.png", "a.png"]


@pytest.mark.parametrize(
    ("side", "downscale", "want"), [(1, 8, 64), (64, 8, 64), (65, 8, 72), (1, 48, 96), (517, 4, 520)]
)
def test_sides_are_padded_to_the_next_multiple(side, downscale, want):
    assert padded_side(side, downscale) == want


def test_padding_mirrors_the_picture():
    levels = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)
    canvas = pad("x", Image.fromarray(levels), 8)
    assert canvas.size == (40, 50)
    assert np.array_equal(canvas.pixels[:40, :50], levels)
    assert np.array_equal(canvas.pixels[40:64, :50], levels[38:14:-1])
    assert np.array_equal(canvas.pixels[:40, 50:64], levels[:, 48:34:-1])


def test_waiting_pictures_are_bounded():
    sides = [512 + 8 * (i % 40) for i in range(400)]
    canvases = (pad(str(i), Image.new("RGB", (side, 512)), 8) for i, side in enumerate(sides))
    given, most, groups = 0, 0, []

    def counted():
        nonlocal given, most
        for canvas in canvases:
            given += canvas.pixels.shape[0] * canvas.pixels.shape[1]
            most = max(most, given)
            yield canvas

    for group in batches(counted(), 100):
        groups.append(group)
        given -= sum(canvas.pixels.shape[0] * canvas.pixels.shape[1] for canvas in group)
        assert len({canvas.pixels.shape for canvas in group}) == 1
        assert sum(canvas.pixels.shape[0] * canvas.pixels.shape[1] for canvas in group) <= 2**22
    assert sorted(int(canvas.name) for group in groups for canvas in group) == list(range(400))
    assert most < 2**26 + 2**20


def test_a_batch_of_large_pictures_is_cut():
    groups = list(batches((pad(str(i), Image.new("RGB", (1024, 1024)), 8) for i in range(9)), 100))
    assert [len(group) for group in groups] == [4, 4, 1]
    assert [len(group) for group in batches([pad("x", Image.new("RGB", (2056, 2056)), 8)], 100)] == [1]


def test_the_longest_names_can_be_written(small, tmp_path, lossless):
    name = "ü" * 125 + ".png"  # 254 bytes
    (small / "a.png").rename(small / name)
    done = reconstruct_folder(lossless(), small, tmp_path / "out", progress=False)
    assert name in done.written
    assert tree(tmp_path / "out") == sorted(["b/c.png", "d.png", "rejected.csv", name])


def test_large_pictures_are_the_same_in_strips_and_move_the_bar(tmp_path, checkpoint, monkeypatch):
    from contextlib import contextmanager

    from ssdd import SSDD
    from ssdd.imaging import encode_decode, large_pictures
    from ssdd.imaging.large_pictures import Tiling

    moves = []

    @contextmanager
    def bar(title, total, show):
        yield lambda count=1: moves.append(count)

    monkeypatch.setattr(encode_decode, "bar", bar)
    monkeypatch.setattr(large_pictures, "LARGE", 100 * 100)
    monkeypatch.setattr(large_pictures, "TILE", 32)
    model, results = SSDD.from_pretrained(checkpoint), {}
    (tmp_path / "in").mkdir()
    Image.radial_gradient("L").resize((90, 130)).convert("RGB").save(tmp_path / "in/large.png")
    for name, tiling in {"strips": Tiling(), "whole": Tiling(tile=0), "other": Tiling(attention_window=2)}.items():
        moves.clear()
        reconstruct_folder(model, tmp_path / "in", tmp_path / name, tiling=tiling)
        results[name] = np.asarray(Image.open(tmp_path / name / "large.png")).astype(int)
        assert sum(moves) == pytest.approx(1, abs=1e-6)
        assert (len(moves) > 20) == (name != "whole")
    assert np.abs(results["strips"] - results["whole"]).max() <= 1  # a level, where rounding differs
    assert (results["strips"] != results["whole"]).mean() < 1e-3
    assert (results["other"] != results["whole"]).mean() > 0.1
