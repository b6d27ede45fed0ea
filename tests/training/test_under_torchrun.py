"""`torchrun -m kedro run`: the ranks train and pretrained network together, and rank 0 alone writes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

ROOT = Path(__file__).parents[2]
STAGE = "{epochs: 1, batch_size: 8, im_size: 32, eval_images: 8, log_every: 1, optim: {lr: 0.01}}"
TINY = f"""
data: {{sample: {{train_images: 24, validation_images: 6, crop_min: 64, crop_max: 128, canvases: 1}}}}
train_encoder: {STAGE}
pretrain: {STAGE}
finetune: {STAGE}
teacher_targets: {{teacher_steps: 2, images: 16, shard_size: 4}}
distill: {STAGE}
evaluate: {{im_size: 32, batch_size: 2, teacher_steps: [1], metrics: [psnr, frechet_random_conv], shown: 2}}
runtime: {{trackers: []}}
"""


@pytest.mark.slow
def test_all_stages_under_torchrun(tmp_path):
    for name in ("conf", "pipelines"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "conf" / "tiny").mkdir()
    (tmp_path / "conf" / "tiny" / "parameters.yml").write_text(TINY)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *torchrun, "-m", "kedro", "run", "--pipeline=evaluate", "--env=tiny"],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "Grad strides" not in said  # DDP's warning that it copies gradients
    run = tmp_path / "data" / "quickstart"
    for stage in ("train_encoder.train_encoder", "distill.distill_teacher", "evaluate.evaluate_student"):
        assert said.count(f"done: {stage}") == 1
    for name, steps in {"encoder": 3, "pretrain": 3, "finetune": 3, "distill": 2}.items():
        rows = pandas.read_csv(run / "training" / f"{name}.csv")
        assert rows[rows["split"] == "train"]["step"].tolist() == list(range(1, steps + 1))
    assert len(list((run / "training" / "teacher_targets").glob("targets-*"))) == 4
    table = pandas.read_parquet(run / "evaluation" / "student_per_image.parquet")
    assert table["image"].tolist() == list(range(6))
    assert json.loads(pandas.read_csv(run / "evaluation" / "metrics.csv")["protocol"][0])["images"] == 6
    # what rank 0 made was moved into the catalog; a second writer would have left its own copy behind
    left = [file.name for file in (run / "state").rglob("*") if file.is_file()]
    assert not [name for name in left if name.startswith((".", "finished", "teacher_", "student_", "reference"))], left
