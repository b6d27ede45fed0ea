"""The published recipe, small: a tree laid out as ImageNet, and weight files filled at random."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ssdd.number_formats import why_slow

ROOT = Path(__file__).parents[2]
CLASSES = ("n01440764", "n01443537")
STAGES = ("train_encoder", "pretrain", "finetune", "distill")
BROKEN = {
    "train/n01440764/n01440764_cut.JPEG": "truncated",
    "train/n01443537/n01443537_text.JPEG": "not an image",
    "val/n01440764/ILSVRC2012_val_empty.JPEG": "truncated",
}
Kedro = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here starts processes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 12 training and 6 validation images each, as JPEG of several sizes and modes; three are broken."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 6)):
        for wnid in CLASSES:
            (root / split / wnid).mkdir(parents=True)
            for number in range(count):
                mode = {0: "L", 1: "CMYK"}.get(number, "RGB")
                name = f"{wnid}_{number}" if split == "train" else f"ILSVRC2012_val_{number:08d}"
                (root / split / wnid / f"{name}.JPEG").write_bytes(_jpeg(rng, mode))
    sound = _jpeg(rng, "RGB")
    for name, reason in BROKEN.items():
        data = b"this is a text" if reason == "not an image" else b"" if "empty" in name else sound[: len(sound) // 2]
        (root / name).write_bytes(data)
    return root


def _jpeg(rng: np.random.Generator, mode: str) -> bytes:
    """A smooth picture with edges, of sides of 60 to 110 pixels."""
    height, width = rng.integers(60, 110, 2)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    picture = coarse.resize((int(width), int(height)), rng.choice([Image.Resampling.BICUBIC, Image.Resampling.NEAREST]))
    buffer = io.BytesIO()
    picture.convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pretrained networks' files in the published formats, with random content."""
    import timm
    import torch_fidelity.feature_extractor_inceptionv3 as fidelity
    import torchvision

    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        inception = fidelity.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(inception.state_dict(), folder / "inception.pth")
    for name, build in {"vgg": torchvision.models.vgg16, "alex": torchvision.models.alexnet}.items():
        with torch.device("meta"):
            shapes = build(weights=None).features.state_dict()
        state = {f"features.{key}": _filled(value.shape) for key, value in shapes.items()}
        state["classifier.6.bias"] = torch.zeros(1000)  # of the classifier, half a gigabyte, one part
        torch.save(state, folder / f"{name}.pth")
    with torch.device("meta"):
        shapes = timm.create_model("vit_base_patch14_dinov2.lvd142m", pretrained=False, num_classes=0).state_dict()
    save_file({key: _filled(value.shape) for key, value in shapes.items()}, folder / "model.safetensors")
    files = {name: folder / f"{name}.pth" for name in ("inception", "vgg", "alex")}
    return {**files, "dinov2": folder / "model.safetensors"}


def _filled(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape) / (shape[1:].numel() ** 0.5 if len(shape) > 1 else 10)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, as a user has it."""
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("conf", "pipelines"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="session")
def kedro(project: Path, warm: Any) -> Kedro:
    """Runs a kedro command in the project: the first as a user starts it, the others in a process that is warm."""
    started = False

    def call(*arguments: str, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        nonlocal started
        program = ["-m", "kedro", *arguments]
        command = warm.command(*program) if started else [sys.executable, *program]
        started = True
        return subprocess.run(
            command,
            cwd=project,
            env={**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def small(imagenet: Path, weights: dict[str, Path]) -> dict[str, object]:
    """The parameters that make the recipe small: sizes, counts and places; and the format, where bfloat16 is slow."""
    given: dict[str, object] = {
        "data.root": imagenet,
        "prepare.limit": 16,
        "prepare.max_rejected": 0.15,
        "model.encoder": "debug",
        "model.decoder": "debug",
        "z_stats.im_size": 32,
        "evaluate.im_size": 40,
        "evaluate.limit": 2,
        "runtime.workers": 1,
        "runtime.threads": 1,
    }
    for stage in STAGES:  # seven steps or more: the optimiser leaves the weights alone in its first five
        given |= {f"{stage}.epochs": 1, f"{stage}.batch_size": 2, f"{stage}.eval_images": 2, f"{stage}.log_every": 1}
        given[f"{stage}.im_size"] = 32 if stage in ("train_encoder", "pretrain") else 40
    if why_slow(torch.bfloat16, torch.device("cpu")):  # the networks of the losses would take a quarter of an hour
        given |= {f"{stage}.precision": "no" for stage in (*STAGES, "train_kl", "feed_forward")}
    return given


@pytest.fixture(scope="session")
def pretrained_networks(weights: dict[str, Path]) -> dict[str, object]:
    """The parameters that name the pretrained networks' local files and their hashes."""
    given: dict[str, object] = {}
    for network, name in {
        "inception": "inception",
        "lpips_vgg": "vgg",
        "lpips_alex": "alex",
        "dinov2": "dinov2",
    }.items():
        given[f"pretrained_networks.{network}.file"] = weights[name]
        given[f"pretrained_networks.{network}.sha256"] = hashlib.sha256(weights[name].read_bytes()).hexdigest()
    return given


@pytest.fixture(scope="session")
def run(kedro: Kedro, small: dict[str, object], pretrained_networks: dict[str, object]) -> Kedro:
    """Runs a pipeline of `conf/imagenet` with the small sizes, those files, and further parameters."""

    def call(pipeline: str, *options: str, **more: object) -> subprocess.CompletedProcess[str]:
        given = {**small, **pretrained_networks, **more}
        parameters = ",".join(f"{name}={value}" for name, value in given.items())
        return kedro("run", "--env=imagenet", f"--pipeline={pipeline}", f"--params={parameters}", *options)

    return call
