"""Kedro's own commands on the real project."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
import yaml

CHOSEN = {
    "--from-nodes=distill.distill_teacher": {
        "distill.distill_teacher",
        "evaluate.evaluate_student",
        "evaluate.decode_photographs",
        "evaluate.collect_metrics",
        "report.draw_curves",
        "report.draw_photographs",
        "report.draw_reconstructions",
        "report.write_report",
    },
    "--to-nodes=pretrain.pretrain": {"prepare.prepare_images", "train_encoder.train_encoder", "pretrain.pretrain"},
    "--tags=distributed": {
        "prepare.prepare_images",
        "train_encoder.train_encoder",
        "z_stats.compute_latent_statistics",
        "pretrain.pretrain",
        "finetune.finetune",
        "distill.cache_teacher_targets",
        "distill.distill_teacher",
        "evaluate.compute_reference_statistics",
        "evaluate.evaluate_references",
        "evaluate.evaluate_teacher",
        "evaluate.evaluate_student",
    },
}


@pytest.mark.parametrize("option", CHOSEN)
def test_a_part_of_the_pipeline_is_chosen(finished, project, option):
    assert project.plan("--force", option).keys() == CHOSEN[option]
    assert project.stale(option) == {}


def test_another_environment_is_another_recipe(project, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "n01").mkdir(parents=True)
    said = project.kedro("run", "--env=imagenet", "--plan", f"--params=run_name=full,data.root={tmp_path}")
    assert said.returncode == 0, said.stdout
    assert "prepare.prepare_images" in said.stdout
    assert "missing image_index" in said.stdout
    assert not (project.folder / "data/full").exists()


def test_registry_and_catalog_are_told(project):
    listed = yaml.safe_load(project.kedro("registry", "list").stdout)
    assert {"__default__", "prepare", "train_encoder", "pretrain", "finetune", "distill", "report"} <= set(listed)
    told = project.kedro("registry", "describe", "z_stats").stdout
    assert "z_stats.compute_latent_statistics (compute_latent_statistics)" in told
    described = yaml.safe_load(project.kedro("catalog", "describe-datasets", "--pipeline=distill").stdout)
    kinds = described["distill"]["datasets"]
    assert "distilled" in kinds["ssdd.datasets.checkpoint_dataset.CheckpointDataset"]
    assert described["distill"]["defaults"] == {}  # nothing that nobody wrote down
    resolved = yaml.safe_load(project.kedro("catalog", "resolve-patterns", "--pipeline=distill").stdout)
    assert resolved["metrics"] == {
        "type": "ssdd.datasets.table_dataset.TableDataset",
        "filepath": str(project.run_folder / "evaluation/metrics.csv"),
    }


def test_a_notebook_session_runs_what_is_stale(finished, project):
    cells = 'print("model:", list(catalog.load("metrics")["model"]))\nsession.run(pipeline_names=["distill"])\n'
    done = project.kedro("ipython", "--env=tiny", "--simple-prompt", stdin=cells)
    assert "16 numbers', 'teacher', 'teacher', 'student']" in done.stdout
    assert "nothing to do: run 'quickstart' is up to date" in done.stdout


def test_the_packaged_project_takes_up_the_same_run(copied, tmp_path):
    done = copied.kedro("package")
    assert done.returncode == 0, done.stdout
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (wheel,) = (copied.folder / "dist").glob("ssdd-*.whl")
    zipfile.ZipFile(wheel).extractall(elsewhere / "installed")
    with tarfile.open(copied.folder / "dist" / "conf-ssdd.tar.gz") as conf:
        conf.extractall(elsewhere, filter="data")
    shutil.move(copied.folder / "data", elsewhere / "data")
    shutil.rmtree(copied.folder / "pipelines")
    path = os.pathsep.join([str(elsewhere / "installed"), copied.environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "ssdd", "--pipeline=distill", "--env=tiny"],
        cwd=elsewhere,
        env={**copied.environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to do: run 'quickstart' is up to date" in done.stdout  # to the byte the same code
    assert "Loading data from" not in done.stdout
