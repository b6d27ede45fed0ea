"""What `ssdd doctor` finds, on machines that are played by replaced functions."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssdd.commands import diagnosis

HOME = "/home/mary"


@pytest.fixture
def replaced(monkeypatch, tmp_path):
    """A machine without a GPU, driver or caches, outside of a project; its user is Mary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(diagnosis.getpass, "getuser", lambda: "mary")
    monkeypatch.setattr(diagnosis, "_gpu", lambda torch: {"present": [], "usable": [], "cuda": None})
    return monkeypatch


@pytest.fixture
def problems(ssdd):
    def look():
        status, said, _ = ssdd("doctor", "--json")
        found = json.loads(said)["problems"]
        assert status == bool(found)
        return found

    return look


def test_a_sound_installation_fits_one_screen(replaced, ssdd):
    status, said, _ = ssdd("doctor")
    assert (status, said.splitlines()[-1].split()) == (0, ["wrong", "nothing"])
    assert len(said.splitlines()) <= 24
    assert f"torch {version('torch')}" in said
    assert "this folder is in none" in said


def test_the_report_holds_versions_and_no_name_of_a_user_or_folder(replaced, ssdd, tmp_path):
    status, said, _ = ssdd("doctor", "--json")
    found = json.loads(said)
    assert status == 0
    assert found["versions"]["ssdd-decoder"] == version("ssdd-decoder")
    assert found["parts"]["ssdd[demo]"] == []
    assert found["networks"] == {"efficientnet": True}
    for name in (str(tmp_path), str(Path.home()), str(Path(__file__).parents[2]), sys.prefix):
        assert name not in said


def test_networks_in_the_cache_are_found_and_their_place_is_told_on_request(replaced, ssdd, tmp_path):
    file = tmp_path / "torch/hub/checkpoints/vgg16-397923af.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    assert json.loads(ssdd("doctor", "--json")[1])["networks"].keys() == {"lpips_vgg", "efficientnet"}
    assert str(file) not in ssdd("doctor")[1]
    assert json.loads(ssdd("doctor", "--json", "--paths")[1])["networks"]["lpips_vgg"] == str(file)


def test_a_torch_that_cannot_be_imported(replaced, problems):
    def broken(name):
        if name in ("torch", "ssdd_metrics.pretrained"):
            return None, f"OSError: {HOME}/env/lib/libcudart.so.12: cannot open, mary"
        return None, ""

    replaced.setattr(diagnosis, "_import", broken)
    (problem,) = problems()
    assert problem.startswith("torch cannot be imported (OSError: .../libcudart.so.12: cannot open, USER)")


@pytest.mark.parametrize(("cuda", "why"), [(None, "a build without CUDA"), ("13.0", "built for CUDA 13.0")])
def test_a_gpu_that_torch_cannot_use(replaced, problems, cuda, why):
    replaced.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    replaced.setattr(
        diagnosis, "_gpu", lambda torch: {"present": ["H100, 550.1, 81559 MiB"], "usable": [], "cuda": cuda}
    )
    (problem,) = problems()
    assert why in problem


def test_what_the_driver_says_is_read(monkeypatch):
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False), version=SimpleNamespace(cuda="13.0"))
    said = SimpleNamespace(stdout="NVIDIA H100, 550.1, 81559 MiB\n")
    monkeypatch.setattr(diagnosis.subprocess, "run", lambda *a, **k: said)
    assert diagnosis._gpu(torch) == {"present": ["NVIDIA H100, 550.1, 81559 MiB"], "usable": [], "cuda": "13.0"}
    monkeypatch.setattr(diagnosis.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError()))
    assert diagnosis._gpu(None) == {"present": [], "usable": [], "cuda": None}


def test_packages_that_do_not_fit_together(replaced, problems):
    real = diagnosis._version
    other = {"ssdd-encoder": "9.0.0", "safetensors": "0.1.0", "pandas": "0.1.0", "kedro": None}
    replaced.setattr(diagnosis, "_version", lambda name: other[name] if name in other else real(name))
    found = " | ".join(problems())
    assert "of different versions" in found
    assert "ssdd-encoder 9.0.0" in found
    assert "ssdd needs safetensors>=0.4.5, found 0.1.0" in found
    assert "ssdd[demo] needs pandas>=2.2, found 0.1.0" in found
    assert found.count("safetensors>") == 2  # said once, in the finding and in its remedy
    assert "kedro" not in found  # an optional part that is not there is no fault


def test_a_full_disk_little_memory_and_too_many_threads(replaced, problems):
    replaced.setattr(diagnosis, "_free", lambda: {"disk": 10**8, "disk_total": 1, "memory": 10**8, "memory_total": 1})
    replaced.setattr(diagnosis.os, "cpu_count", lambda: 0.5)
    assert [problem.split(" ")[:5] for problem in problems()] == [
        ["torch", "uses", "1", "threads", "on"],
        ["0.1", "GB", "of", "disk", "are"],
        ["0.1", "GB", "of", "memory", "are"],
    ]


def test_a_project_whose_source_is_not_the_one_that_runs(replaced, problems, ssdd, tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "pipelines/ssdd").mkdir(parents=True)
    (tmp_path / "data/first").mkdir(parents=True)
    found = problems()
    assert [line.partition(",")[0].partition(" is ")[0] for line in found] == [
        "the project has no conf/base: take the folder conf of the repository",
        "the command",
    ]
    assert json.loads(ssdd("doctor", "--json")[1])["project"]["runs"] == 1


def test_where_the_parts_of_the_command_are_missing_it_says_so(tmp_path):
    code = (
        "import sys; sys.modules['packaging.requirements'] = None\nfrom ssdd.commands.group import cli\ncli(['doctor'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "Error: ssdd doctor needs packaging.requirements: pip install 'ssdd[demo]'\n"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (r"C:\Users\mary\lib\torch.dll is not there", ".../torch.dll is not there"),
        ("see '/home/mary/a b.txt'", "see '.../a b.txt'"),
        ("pip install 'torch>=2.6'", "pip install 'torch>=2.6'"),
    ],
)
def test_paths_keep_their_last_part(monkeypatch, text, kept):
    monkeypatch.setattr(diagnosis.getpass, "getuser", lambda: "mary")
    assert diagnosis.without_names(text) == kept
