"""Names that are not UTF-8, that are too long or that are taken: they are listed, and all other images have results.

The right values: a file of latents holds what safetensors reads, JSON is what a strict parser reads, and a CSV what
pandas reads, as UTF-8.
"""

import hashlib
import json
import os

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

LATIN = os.fsdecode(b"caf\xe9.png")
ODD = [LATIN, os.fsdecode(b"\xff\xfe.jpg"), os.fsdecode(b"half\xc3.png"), os.fsdecode(b"cesu\xed\xa0\x80.png")]
RESERVED = "__metadata__"


def paint(file, colour=(200, 100, 50)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 16), colour).save(file, "PNG")
    return file


def utf8(name):
    return name.encode("utf-8", "backslashreplace").decode()


@pytest.mark.parametrize("name", [*ODD, RESERVED])
def test_a_name_that_cannot_be_kept_costs_no_other_latent(ssdd, model, tmp_path, tally, name):
    good, bad, out = paint(tmp_path / "a.png"), paint(tmp_path / name), tmp_path / "l.safetensors"
    status, said, beside = ssdd("encode", good, bad, "-o", out, "--model", model)
    assert status == 0
    assert said == f"{out}: 1 image, 1 skipped\n"
    assert f"skipped {utf8(name)}: name is" in beside
    assert list(load_file(out)) == ["a.png"]
    assert "latents of 1 image" in ssdd("info", out)[1]
    status, _, beside = ssdd("encode", bad, "-o", tmp_path / "none", "--model", model)
    assert status == 1
    assert "name is" in beside
    assert not (tmp_path / "none").exists()
    tally("odd names", tried=2, survived=2)


@pytest.mark.parametrize("name", ODD)
def test_statistics_leave_out_a_name_that_no_table_holds(ssdd, model, tmp_path, tally, name):
    good, bad, out = paint(tmp_path / "a.png"), paint(tmp_path / name), tmp_path / "stats.json"
    status, said, beside = ssdd("z-stats", good, bad, "-o", out, "--model", model, "--im-size", 16)
    assert status == 0, beside
    assert said.endswith("over 1 image\n")
    assert f"skipped {utf8(name)}: name is not Unicode" in beside
    assert json.loads(out.read_bytes())["images"] == 1
    tally("odd names", tried=1, survived=1)


def test_names_of_models_outputs_and_folders_may_be_any_bytes(ssdd, model, tmp_path, tally):
    place = tmp_path / os.fsdecode(b"dos\xe9")
    paint(place / "in/a.png")
    latents, stats = tmp_path / "l.safetensors", place / os.fsdecode(b"s\xe9.json")
    assert ssdd("encode", place / "in", "-o", latents, "--model", model)[0] == 0
    for arguments in (
        ["decode", latents, "-o", place / os.fsdecode(b"out\xe9"), "--model", model],
        ["reconstruct", place / "in", "-o", place / os.fsdecode(b"re\xe9"), "--model", model],
        ["z-stats", place / "in", "-o", stats, "--model", model, "--im-size", 16],
    ):
        status, said, beside = ssdd(*arguments)
        assert status == 0, beside
        assert "\\udce9" in said
        tally("odd names", tried=1, survived=1)
    assert json.loads(stats.read_bytes())["images"] == 1
    assert sorted(file.name for file in (place / os.fsdecode(b"out\xe9")).iterdir()) == ["a.png"]
    own = place / "model.safetensors"  # safetensors opens and writes no such path: said before any work
    own.write_bytes(model.read_bytes())
    for arguments in (
        ["encode", place / "in", "-o", place / "l", "--model", model],
        ["encode", place / "in", "-o", tmp_path / "other", "--model", own],
        ["decode", place / "model.safetensors", "-o", tmp_path / "other", "--model", model],
        ["info", own],
    ):
        status, _, beside = ssdd(*arguments)
        assert status == 1
        assert "expected the path of a safetensors file in UTF-8" in beside
        assert "\\udce9" in beside
        tally("odd names", tried=1, survived=1)


def test_a_folder_with_odd_names_is_reconstructed_but_for_them(ssdd, model, tmp_path):
    for name in (LATIN, "a.png", "ü.png", os.fsdecode(b"deep\xe9/b.png")):
        paint(tmp_path / "in" / name)
    status, said, _ = ssdd("reconstruct", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    assert status == 0
    assert said == f"{tmp_path / 'out'}: 2 images, 2 skipped, see rejected.csv\n"
    table = pd.read_csv(tmp_path / "out/rejected.csv", encoding="utf-8")
    assert list(table["path"]) == ["caf\\udce9.png", "deep\\udce9"]
    assert set(table["reason"]) == {"name is not Unicode"}


def test_a_file_of_latents_is_read_back_before_it_has_its_name(tmp_path):
    from ssdd.imaging.latent_files import LatentWriter
    from ssdd.imaging.latent_header import LatentHeader

    (tmp_path / "l.safetensors").write_bytes(b"before")
    with open(tmp_path / "spool", "w+b") as spool:
        writer = LatentWriter(spool)
        writer.add(LATIN, torch.zeros(4, 2, 2), (16, 16))
        header = LatentHeader(
            downscale=8, latent_channels=4, sizes=writer.sizes, model={}, encoder={}, precision="float32", version="0"
        )
        with pytest.raises(ValueError, match="not a whole file of latents"):
            writer.finish(tmp_path / "l.safetensors", header)
    assert (tmp_path / "l.safetensors").read_bytes() == b"before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["l.safetensors", "spool"]


def test_a_stamp_keeps_an_odd_name(tmp_path):
    from ssdd.lineage.stamps import Identity, Stamp, read_stamp, stamp_path, write_stamp

    identity = Identity(function="m:f", code={}, parameters={}, inputs={}, packages={}, catalog={})
    stamp = Stamp(dataset="x", node="n", sha256="0", identity=identity, about={"neutral": {"data.root": LATIN}})
    write_stamp(tmp_path / "x", stamp)
    assert read_stamp(tmp_path / "x") == stamp
    stamp_path(tmp_path / "x").read_bytes().decode("utf-8")


def test_a_project_takes_images_from_a_folder_of_any_name(runs, tmp_path, tally):
    root = tmp_path / os.fsdecode(b"dos\xe9")
    for number in range(4):
        paint(root / f"{number}.png", (number, 0, 0))
    paint(root / LATIN)
    settings = f"data.kind=folder,data.root={root},prepare.max_rejected=0.5,runtime.progress=false"
    code, said = runs.run("odd-names", "--to-nodes=prepare.prepare_images", settings=settings)
    assert code == 0, said
    made = runs.folder("odd-names") / "images"
    assert list(pd.read_csv(made / "rejected.csv")["path"]) == ["caf\\udce9.png"]
    json.loads((made / "index.parquet.lineage.json").read_text(encoding="utf-8"))
    tally("odd names", tried=2, survived=2)


@pytest.mark.parametrize("stem", ["a" * 251, "é" * 125 + "a", "画" * 83 + "aa", "𝄞" * 62 + "aaa"])
def test_long_names_are_cut_by_the_rule(ssdd, model, tmp_path, tally, stem):
    assert len(stem.encode()) == 251
    for name in (f"{stem}.png", f"{stem}.jpg", "z.png"):
        paint(tmp_path / "in" / name)
    status, said, beside = ssdd("reconstruct", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    assert status == 0, beside
    assert said.endswith("3 images, none skipped\n")
    assert ssdd("encode", tmp_path / "in", "-o", tmp_path / "l", "--model", model)[0] == 0
    assert ssdd("decode", tmp_path / "l", "-o", tmp_path / "decoded", "--model", model)[0] == 0
    wanted = ["z.png"]
    for suffix in (".png", ".jpg"):
        digits = hashlib.sha256(f"{stem}{suffix}.png".encode()).hexdigest()[:8]
        wanted.append(stem.encode()[: 255 - 13].decode("utf-8", "ignore") + f"-{digits}.png")
    for folder in ("out", "decoded"):
        names = {file.name for file in (tmp_path / folder).iterdir()} - {"rejected.csv"}
        assert names == set(wanted)
        assert max(len(name.encode()) for name in names) <= 255
    tally("long names", tried=2, survived=2)


def test_an_output_of_the_longest_name_is_written(ssdd, model, tmp_path):
    paint(tmp_path / "a.png")
    for name in ("l." + "s" * 253, "é" * 121 + ".safetensors"):
        status, _, beside = ssdd("encode", tmp_path / "a.png", "-o", tmp_path / name, "--model", model)
        assert status == 0, beside
        assert list(load_file(tmp_path / name)) == ["a.png"]


def test_names_that_the_output_folder_refuses_cost_no_other_picture(ssdd, model, tmp_path, tally):
    for name in ("taken.jpg", "b.jpg", "file.d/x.jpg", "rejected.csv/x.png", "c.png"):
        paint(tmp_path / "in" / name)
    out = tmp_path / "out"
    (out / "taken.png").mkdir(parents=True)
    (out / "file.d").write_text("a file where a folder has to be")
    status, said, beside = ssdd("reconstruct", tmp_path / "in", "-o", out, "--model", model)
    assert status == 0, beside
    assert said == f"{out}: 2 images, 3 skipped, see rejected.csv\n"
    table = pd.read_csv(out / "rejected.csv")
    assert list(table["path"]) == ["file.d/x.jpg", "rejected.csv/x.png", "taken.jpg"]
    assert set(table["reason"]) == {"name is refused"}
    assert not any(".partial" in file.name for file in out.rglob("*"))
    assert ssdd("encode", tmp_path / "in", "-o", tmp_path / "l", "--model", model)[0] == 0
    status, said, beside = ssdd("decode", tmp_path / "l", "-o", out, "--model", model)
    assert (status, said) == (0, f"{out}: 2 images, 3 skipped\n")
    assert "skipped rejected.csv/x.png: name is refused" in beside  # the list of the call before
    tally("refused names", tried=3, survived=3)


def test_a_full_disk_is_no_name(monkeypatch, tmp_path):
    import errno

    import numpy as np

    from ssdd.imaging import picture_writer

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(picture_writer, "atomic_write", full)
    with picture_writer.PictureWriter(tmp_path, {"a": "a.png"}) as writer:
        with pytest.raises(OSError, match="No space"):
            writer.write(["a"], [np.zeros((8, 8, 3), np.uint8)])
        assert not writer.rejected
