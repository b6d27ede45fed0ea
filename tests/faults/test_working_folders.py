"""Commands that start in a sub-folder of the project, or in a notebook elsewhere: paths and log follow one rule.

The right folder is that of the shell for the command line, and that of the project for files of parameters.
"""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ssdd.lineage.project_folder import from_shell, in_project


def fill(folder, count):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((32, 32, 3), 9 * number, np.uint8)).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("photos", "sub/deep/photos"),
        ("./photos", "sub/deep/photos"),
        ("../photos", "sub/photos"),
        ("../../photos", "photos"),
        ("../../../photos", "../photos"),
        ("/abs/photos", "/abs/photos"),
        ("~/photos", "~/photos"),
        ("", ""),
    ],
)
def test_paths_of_the_shell_are_paths_of_the_project(tmp_path, monkeypatch, written, wanted):
    (tmp_path / "sub/deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "sub/deep")
    assert from_shell(written, tmp_path) == wanted
    monkeypatch.chdir(tmp_path)
    assert from_shell(written, tmp_path) == written


def test_a_run_is_no_path(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert from_shell("quickstart@best", tmp_path, may_be_run=True) == "quickstart@best"
    assert from_shell("x.safetensors", tmp_path, may_be_run=True) == "sub/x.safetensors"
    (tmp_path / "sub/file").touch()
    assert from_shell("file", tmp_path, may_be_run=True) == "sub/file"


def test_paths_of_parameters_start_at_the_project(tmp_path):
    before = {"data": {"root": "photos", "hub": None}, "a": {"b": {"file": "~/x"}}}
    found = in_project(before, tmp_path, ["data.root", "a.b.file", "a.c.file", "data.hub"])
    assert found == {"data": {"root": str(tmp_path / "photos"), "hub": None}, "a": {"b": {"file": "~/x"}}}
    assert before["data"]["root"] == "photos"


@pytest.mark.slow
def test_a_run_from_a_sub_folder(project, tally):
    """The shell's photos are three, the project's are four; a parameter of a file means the latter."""
    fill(project.folder / "notes/photos", 3)
    fill(project.folder / "photos", 4)
    (project.folder / "conf/mine").mkdir()
    (project.folder / "conf/mine/parameters.yml").write_text("data: {kind: folder, root: photos}\n")
    for name, count, arguments in (
        ("shell", 3, ["--params=run_name=shell,data.kind=folder,data.root=photos"]),
        ("file", 4, ["--env=mine", "--params=run_name=file"]),
    ):
        command = [sys.executable, "-m", "kedro", "run", "--pipeline=prepare", *arguments]
        done = subprocess.run(
            command, cwd=project.folder / "notes", env=project.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(pd.read_parquet(project.folder / "data" / name / "images/index.parquet")) == count
        assert not (project.folder / "notes/data").exists()
        said = done.stdout + done.stderr  # the log is the project's: none of Kedro's lines on datasets
        assert "Loading data from" not in said
        assert "done: prepare.prepare_images" in said
        tally("working folders", tried=1, survived=1)
    stamp = json.loads((project.folder / "data/shell/images/index.parquet.lineage.json").read_text())
    assert stamp["about"]["neutral"]["data.root"] == "notes/photos"


@pytest.mark.slow
def test_a_session_in_another_folder(project, tmp_path, tally):
    fill(project.folder / "pictures", 5)
    code = """
import sys
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
bootstrap_project(sys.argv[1])
params = {"run_name": "session", "data": {"kind": "folder", "root": "pictures"}}
with KedroSession.create(sys.argv[1], runtime_params=params) as session:
    session.run(pipeline_names=["prepare"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, project.folder],
        cwd=tmp_path,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pd.read_parquet(project.folder / "data/session/images/index.parquet")) == 5
    assert not list(tmp_path.iterdir())
    tally("working folders", tried=1, survived=1)
