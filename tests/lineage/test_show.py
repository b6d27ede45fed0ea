"""`ssdd lineage <file>` and the stamp beside a file answer what made it."""

import io
import json
import platform
import shutil
import subprocess

import pytest
from rich.console import Console

from ssdd.lineage.lineage_tree import describe
from ssdd.lineage.stamps import read_stamp


def shown(path):
    console = Console(file=io.StringIO(), width=200)
    console.print(describe(path))
    return console.file.getvalue()


def test_a_file_tells_what_made_it_and_what_made_its_inputs(project):
    for command in ("init -q", "add .", "-c user.name=a -c user.email=b commit -qm c"):
        subprocess.run(["git", *command.split()], cwd=project.folder, check=True)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=project.folder, text=True).strip()
    project.run(params={"runtime": {"workers": 2}})
    said = shown(project.data / "summary.txt")
    for fact in (
        commit,
        "tell.title=hello",
        "toy.nodes:tell",
        "missing summary",
        platform.platform(),
        "intact",
    ):
        assert fact in said
    assert "with uncommitted changes" not in said
    assert "weights.safetensors from training.train" in said
    said = shown(project.data / "weights.safetensors.lineage.json")  # its stamp will do
    for fact in ("train.lr=0.5", "train.epochs=3", "runtime.workers=2", "train.log_every=1", "numpy"):
        assert fact in said
    assert "features: in memory" in said
    said = shown(project.data / "table.csv")
    assert "source: source.csv, not made by a run" in said
    assert not platform.node() or platform.node() not in said


def test_what_made_several_inputs_is_told_once(project):
    project.run()
    tree = shown(project.data / "summary.txt").partition("summary.txt from ")[2]
    assert tree.count(" from training.train") == 2
    assert tree.count(" from training.train, as above") == 1
    assert tree.count("features: in memory") == 1


def test_parameters_are_listed_by_group(project):
    project.run()
    lines = [line.strip() for line in shown(project.data / "weights.safetensors").splitlines()]
    (train,) = [line for line in lines if "train.lr=0.5, train.optim.decay=0" in line]
    (runtime,) = [line for line in lines if "runtime.device=cpu" in line]
    assert "runtime" not in train
    assert "train" not in runtime


def test_what_has_changed_since_is_marked(project):
    project.run()
    (project.data / "weights.safetensors").write_bytes(b"other")
    assert "now other content" in shown(project.data / "summary.txt")
    assert "MODIFIED" in shown(project.data / "weights.safetensors")
    (project.data / "weights.safetensors").unlink()
    assert "gone" in shown(project.data / "summary.txt")


def test_a_file_without_lineage_is_named(project):
    with pytest.raises(ValueError, match="its stamp beside it: nothing at"):
        describe(project.folder / "source.csv")
    project.run()
    stamp = project.data / "table.csv.lineage.json"
    stamp.write_text(stamp.read_text()[:-20])
    with pytest.raises(ValueError, match="its stamp is damaged"):
        describe(project.data / "table.csv")


def test_the_stamp_is_plain_json(project):
    project.run()
    content = json.loads((project.data / "weights.safetensors.lineage.json").read_text())
    assert content["node"] == "training.train"
    assert content["extends"] == {"train.epochs": 3}
    assert content["identity"]["parameters"] == {"train.lr": 0.5, "train.optim.decay": 0}
    assert set(content["identity"]["code"]) >= {"toy.training:train", "toy.helper:step", "toy.helper:FACTOR"}
    assert not [name for name in content["identity"]["code"] if name.startswith("ssdd.lineage")]
    assert content["about"]["seconds"] >= 0


def test_a_moved_project_is_still_up_to_date(project, monkeypatch, tmp_path):
    project.run()
    before = read_stamp(project.data / "summary.txt")
    moved = tmp_path / "elsewhere"
    shutil.copytree(project.folder, moved)
    monkeypatch.chdir(moved)
    project.folder, project.data = moved, moved / "data/first"
    assert project.run() == []
    assert read_stamp(project.data / "summary.txt") == before
