"""The real project in a folder of its own, with an environment `tiny` that runs in seconds."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGE = "{epochs: 1, batch_size: 8, im_size: 32, eval_images: 8, log_every: 2, optim: {lr: 0.01}}"
TINY = f"""
data: {{sample: {{train_images: 32, validation_images: 12, crop_min: 64, crop_max: 128, canvases: 1}}}}
train_encoder: {STAGE}
z_stats: {{im_size: 32}}
pretrain: {STAGE}
finetune: {STAGE}
teacher_targets: {{teacher_steps: 2, images: 16, shard_size: 8}}
distill: {STAGE}
evaluate:
  {{im_size: 32, batch_size: 8, teacher_steps: [2, 1], metrics: [psnr, ssim_gaussian, frechet_random_conv], shown: 4}}
runtime: {{trackers: []}}
"""

Kedro = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts processes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copy(ROOT / ".telemetry", folder)
    shutil.copytree(ROOT / "pipelines", folder / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conf" / "tiny").mkdir()
    (folder / "conf" / "tiny" / "parameters.yml").write_text(TINY)
    return folder


@pytest.fixture(scope="session")
def kedro(project: Path) -> Kedro:
    """Runs a kedro command in the project."""

    def call(*arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "kedro", *arguments],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def finished(kedro: Kedro) -> subprocess.CompletedProcess[str]:
    """The first run of the whole pipeline."""
    return kedro("run", "--pipeline=distill", "--env=tiny")
