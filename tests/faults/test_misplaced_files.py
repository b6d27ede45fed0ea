"""Inputs that are not what their user means: Git LFS pointers, `~`, NaN, odd columns, a repository of another user.

The right answer names the thing and the remedy; nothing is read, or made, that the user did not mean.
"""

import json
import os
import subprocess

import pytest
import torch
from PIL import Image

from ssdd import SSDD
from ssdd.data import BadImage, decode_image
from ssdd.data.image_sets import open_images, open_source
from ssdd.imaging.latent_files import StoredLatents
from ssdd.parameters import DataParameters
from ssdd_encoder import Encoder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
REMEDY = "is a Git LFS pointer and not the file itself: fetch that with `git lfs pull`"


def test_git_lfs_pointers_are_named(ssdd, model, tmp_path, tally):
    for name in ("model.safetensors", "table.parquet", "table.csv", "photo.png"):
        (tmp_path / name).write_bytes(POINTER)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (24, 16)).save(tmp_path / "in/a.png")
    pointer = tmp_path / "model.safetensors"
    for arguments in (
        ["reconstruct", tmp_path / "in", "-o", tmp_path / "out", "--model", pointer],
        ["encode", tmp_path / "in", "-o", tmp_path / "l", "--model", pointer],
        ["z-stats", tmp_path / "in", "-o", tmp_path / "l", "--model", pointer],
        ["decode", pointer, "-o", tmp_path / "out", "--model", model],
        ["info", pointer],
        ["compare", tmp_path / "table.parquet", tmp_path / "table.csv"],
    ):
        status, _, beside = ssdd(*arguments)
        assert status == 1
        assert REMEDY in beside
        tally("Git LFS pointers", tried=1, survived=1)
    for load in (SSDD.from_pretrained, Encoder.from_pretrained, StoredLatents):
        with pytest.raises(ValueError, match="git lfs pull"):
            load(pointer)
        tally("Git LFS pointers", tried=1, survived=1)
    with pytest.raises(BadImage, match="not an image: it is a Git LFS pointer"):
        decode_image(POINTER)


def test_weights_of_a_metric_that_are_a_pointer_are_named(tmp_path):
    from ssdd_metrics import find_network

    (tmp_path / "weights.pth").write_bytes(POINTER)
    with pytest.raises(ValueError, match="git lfs pull"):
        find_network("inception", tmp_path / "weights.pth")


def test_the_home_folder_has_its_short_name_everywhere(ssdd, model, tmp_path, monkeypatch, tally):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    Image.new("RGB", (24, 16)).save(tmp_path / "in/a.png")
    (tmp_path / "m.safetensors").write_bytes(model.read_bytes())
    own = "--model=~/m.safetensors"
    for arguments in (
        ["encode", "~/in", "--output=~/l.safetensors", own],
        ["encode", "~/in/a.png", "-o", "~/l.safetensors", own],
        ["decode", "~/l.safetensors", "--output=~/decoded", own],
        ["reconstruct", "~/in", "--output=~/out", own],
        ["z-stats", "~/in", "--output=~/s.json", own, "--im-size", 16],
        ["info", "~/m.safetensors"],
    ):
        status, _, beside = ssdd(*arguments)
        assert status == 0, beside
        tally("the home folder", tried=1, survived=1)
    assert "at ~/a.parquet" not in ssdd("lineage", "~/a.parquet")[2]
    for load in (SSDD.from_pretrained, Encoder.from_pretrained, SSDD.config_of):
        load("~/m.safetensors")
    SSDD.from_pretrained("~/m.safetensors").save_pretrained("~/saved")
    assert (tmp_path / "saved/ssdd.safetensors").is_file()
    assert not (tmp_path / "~").exists()
    assert open_images(DataParameters(kind="folder", root="~/in")).listing().names["train"] == ["a.png"]
    Image.new("RGB", (24, 16)).save(tmp_path / "~nobody at all.png")  # a file's own name goes first
    assert ssdd("encode", "~nobody at all.png", "-o", "l.safetensors", own)[0] == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_finite_are_refused(model, value, tally):
    x = torch.zeros(2, 3, 16, 16)
    x[1, 2, 3, 4] = value
    network = SSDD.from_pretrained(model)
    for encode in (network.encode, network.encoder, network.reconstruct):
        with pytest.raises(ValueError, match="expected finite images, got NaN or infinity"):
            encode(x)
        tally("images that are not finite", tried=1, survived=1)


@pytest.fixture
def tables(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def saved(tables, tmp_path, **splits):
    made = {name: tables.Dataset.from_dict(columns, features=features) for name, (columns, features) in splits.items()}
    place = tmp_path / "set"
    tables.DatasetDict({name: table for name, table in made.items() if len(table)}).save_to_disk(place)
    for name in [name for name, table in made.items() if not len(table)]:  # as newer releases of the library save it
        (place / name).mkdir(parents=True)
        (place / name / "state.json").write_text('{"_data_files": []}')
    (place / "dataset_dict.json").write_text(json.dumps({"splits": list(made)}))
    return str(place)


def png():
    from io import BytesIO

    file = BytesIO()
    Image.new("RGB", (24, 16)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_two_columns_of_images_are_named_with_the_parameter(tables, tmp_path):
    features = tables.Features(a=tables.Image(), b=tables.Image())
    place = saved(tables, tmp_path, train=({"a": [png()], "b": [png()]}, features))
    with pytest.raises(ValueError, match=r"found 2 among 'a', 'b': name it with data\.options\.column"):
        open_source("huggingface", place)
    options = DataParameters(kind="huggingface", root=place, options={"column": "b"})  # the parameter of the hint
    assert open_images(options).listing().names["train"] == ["train/00000000"]


def test_a_column_of_lists_of_images_is_named(tables, tmp_path):
    place = saved(tables, tmp_path, train=({"many": [[png(), png()]]}, tables.Features(many=[tables.Image()])))
    for options in ({}, {"column": "many"}):
        with pytest.raises(
            ValueError, match="'many' holds lists of images; save the data set with one image in each row"
        ):
            open_source("huggingface", place, **options)


def test_an_empty_split_is_none(tables, tmp_path):
    features = tables.Features(image=tables.Image())
    full, empty = ({"image": [png()] * 3}, features), ({"image": []}, features)
    for number, (splits, wanted) in enumerate(
        [
            ({"train": full, "test": empty}, {"train": 3}),
            ({"train": full, "validation": empty, "test": full}, {"train": 3, "validation": 3}),
            ({"train": empty, "test": full}, {"validation": 3}),
        ]
    ):
        names = open_source("huggingface", saved(tables, tmp_path / str(number), **splits)).listing().names
        assert {split: len(found) for split, found in names.items()} == wanted
    with pytest.raises(ValueError, match="found no row"):
        open_source("huggingface", saved(tables, tmp_path / "none", train=empty))


def test_a_repository_of_another_user_is_told(tmp_path, monkeypatch, caplog):
    from ssdd.lineage.provenance import commit

    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    assert commit(tmp_path) == {"commit": None, "dirty": None}  # no repository: nothing to tell
    git("init")
    assert commit(tmp_path) == {"commit": None, "dirty": None}  # no commit yet
    git("commit", "--allow-empty", "-m", "first")
    assert set(commit(tmp_path)) == {"commit", "dirty"}
    assert not caplog.records
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to test it
    found = commit(tmp_path)
    assert found["commit"] is None
    assert "belongs to another user" in found["no_commit"]
    assert "safe.directory" in caplog.text
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit(tmp_path)["no_commit"] == "git is not installed"


def test_the_lineage_says_why_it_has_no_commit(ssdd, tmp_path):
    from ssdd.lineage.stamps import Identity, Stamp, write_stamp

    identity = Identity(function="m:f", code={}, parameters={}, inputs={}, packages={}, catalog={})
    about = {"commit": None, "no_commit": "the repository belongs to another user"}
    (tmp_path / "x").touch()
    write_stamp(tmp_path / "x", Stamp(dataset="x", node="n", sha256="0", identity=identity, about=about))
    assert "belongs to another user" in ssdd("lineage", tmp_path / "x")[1]
    assert os.listdir(tmp_path)
