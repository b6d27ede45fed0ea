"""Pretrained networks by parameters: where files may lie, what counts for the lineage, when a missing one is told."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ssdd.evaluation.pretrained_networks import find_networks, load_networks
from ssdd.files import sha256_file
from ssdd.lineage.parameter_values import sort_parameters
from ssdd.parameters import EvaluateParameters, PretrainedNetworks, StageParameters

ROOT = Path(__file__).parents[2]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No cache, no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hf"))

    def refuse(url, timeout):
        raise OSError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


def files(**given: dict) -> PretrainedNetworks:
    return PretrainedNetworks.model_validate(given)


def test_a_place_counts_for_nothing_and_a_hash_does():
    here, there, other = (
        sort_parameters({"params:pretrained_networks": files(inception=given)})
        for given in ({"file": "/a"}, {"file": "/b"}, {"file": "/a", "sha256": "ff"})
    )
    assert here.core == there.core
    assert here.neutral != there.neutral
    assert here.core != other.core


def test_parameters_know_which_networks_they_need():
    assert EvaluateParameters(metrics="offline").pretrained_networks == ()
    assert set(EvaluateParameters(metrics="full").pretrained_networks) == {
        "inception",
        "dinov2",
        "lpips_alex",
        "lpips_vgg",
    }
    assert EvaluateParameters(metrics=("psnr", "dreamsim")).pretrained_networks == ("dreamsim",)
    published = StageParameters(eval_metrics=("psnr", "rfid"))
    assert set(published.pretrained_networks) == {"lpips_vgg", "dinov2", "inception"}
    quickstart = StageParameters.model_validate(
        {"loss": {"perceptual": "msgrad", "repa": 0}, "eval_metrics": ["psnr", "frechet_random_conv"]}
    )
    assert quickstart.pretrained_networks == ()


def test_a_missing_file_is_named_with_its_parameter(nowhere, tmp_path):
    for name in ("inception", "lpips_alex", "lpips_vgg", "dinov2"):
        lost = str(tmp_path / f"{name}.pth")
        with pytest.raises(
            ValueError, match=rf"found no file.*Fetch .* from https.*pretrained_networks\.{name}\.file"
        ) as caught:
            find_networks([name], files(**{name: {"file": lost}}))
        assert lost in str(caught.value)
        with pytest.raises(ValueError, match=rf"cannot be fetched.*put it into .*pretrained_networks\.{name}\.file"):
            find_networks([name], files())


def test_a_file_must_have_the_hash_that_is_asked(nowhere, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, file)
    digest = sha256_file(file)
    given = {"file": str(file)}
    for name in ("inception", "lpips_alex", "lpips_vgg"):
        with pytest.raises(ValueError, match=rf"damaged or another file.*pretrained_networks\.{name}\.sha256"):
            find_networks([name], files(**{name: given}))
        with pytest.raises(ValueError, match=rf"SHA-256 abc.*has {digest}"):
            find_networks([name], files(**{name: given | {"sha256": "abc"}}))
    with pytest.raises(ValueError, match=rf"pretrained_networks\.dinov2\.sha256={digest}"):
        find_networks(["dinov2"], files(dinov2=given))
    named = {name: given | {"sha256": digest[:12]} for name in ("inception", "lpips_alex", "lpips_vgg", "dinov2")}
    assert set(find_networks(named, files(**named)).values()) == {file}
    with pytest.raises(ValueError, match=r"weights that fit this network.*pretrained_networks\.lpips_alex"):
        load_networks(["lpips_alex"], files(**named))


@pytest.mark.slow
def test_a_run_ends_before_its_first_node_where_a_network_is_missing(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copy(ROOT / ".telemetry", tmp_path)
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines", ignore=shutil.ignore_patterns("__pycache__"))
    lost = tmp_path / "inception.pth"
    asked = f"--params=evaluate.metrics=rfid,pretrained_networks.inception.file={lost}"
    failed = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipeline=evaluate", asked],
        cwd=tmp_path,
        env=os.environ | {"COLUMNS": "1000", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    said = failed.stdout + failed.stderr
    assert failed.returncode != 0
    assert "Traceback" not in said
    for words in (str(lost), "weights-inception-2015-12-05-6726825d.pth", "pretrained_networks.inception.file"):
        assert words in said
    assert not (tmp_path / "data/quickstart/images").exists()
