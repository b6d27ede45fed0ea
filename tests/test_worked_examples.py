"""The worked examples of pipelines/README.md are applied to a copy of the project, as they stand there, and run."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow

README = Path(__file__).parents[1] / "pipelines" / "README.md"
SMALL = ("--params", "train_encoder.eval_images=4,runtime.progress=False")


def examples() -> dict[str, str]:
    """Heading -> the change in its `diff` block."""
    text = README.read_text(encoding="utf-8")
    return dict(re.findall(r"^### (A new \w+)\n.*?^```diff\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


@pytest.fixture
def changed(project: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """A copy of the project with one example applied."""
    results = str(project.folder)
    shutil.copytree(
        project.folder, tmp_path / "project", ignore=lambda place, _: {"data"} if place == results else set()
    )
    change = examples()[request.param]
    assert len(re.findall(r"^\+\+\+ ", change, re.MULTILINE)) <= 3, "an example changes at most three files"
    subprocess.run(["git", "apply", "-"], cwd=tmp_path / "project", input=change, text=True, check=True)
    return type(project)(tmp_path / "project", project.warm)


@pytest.mark.parametrize("changed", ["A new loss"], indirect=True)
def test_a_new_loss_stands_in_the_history(changed):
    changed.run("--pipeline=train_encoder", *SMALL, "--params", "train_encoder.loss.charbonnier=0.1")
    with open(changed.run_folder / "training" / "encoder.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert all(float(row["charbonnier"]) > 0 for row in rows)


@pytest.mark.parametrize("changed", ["A new metric"], indirect=True)
def test_a_new_metric_stands_in_the_report(changed):
    metrics = "evaluate:\n  {im_size: 32, limit: 4, teacher_steps: [1], metrics: [psnr, max_error], shown: 4}\n"
    settings = changed.folder / "conf" / "tiny" / "parameters.yml"
    settings.write_text(re.sub(r"evaluate:\n(?:  .*\n| {3}.*\n)+", metrics, settings.read_text()))
    changed.run("--pipeline=distill", *SMALL)
    assert "largest error (levels)" in (changed.run_folder / "report" / "report.html").read_text()


@pytest.mark.parametrize("changed", ["A new source"], indirect=True)
def test_a_new_source_is_prepared(changed, tmp_path):
    (tmp_path / "arrays").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "arrays" / "some.npy", images)
    changed.run("--pipeline=prepare", "--params", f"data.kind=arrays,data.root={tmp_path / 'arrays'}")
    assert len(list((changed.run_folder / "images").glob("index.parquet"))) == 1


@pytest.mark.parametrize("changed", ["A new stage"], indirect=True)
def test_a_new_stage_keeps_its_result(changed):
    changed.run("--pipeline=latent_range", *SMALL)
    found = json.loads((changed.run_folder / "results" / "latent_range.json").read_text())
    assert found["min"] < 0 < found["max"]
    assert changed.stale("--pipeline=latent_range", *SMALL) == {}


def test_all_four_examples_are_there():
    assert set(examples()) == {"A new loss", "A new metric", "A new source", "A new stage"}
