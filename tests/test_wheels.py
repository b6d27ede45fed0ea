"""Each package's wheel, installed alone: only what it declares comes with it, and its README runs there."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DECLARED = {
    "ssdd-encoder": {"torch", "safetensors"},
    "ssdd-decoder": {"torch", "einops", "safetensors"},
    "ssdd-metrics": {"torch", "torchmetrics", "numpy", "safetensors"},
}
# Besides torch, what an import may bring along: the rest is imported where it is used.
LIGHT = {
    "ssdd-encoder": {"safetensors"},
    "ssdd-decoder": {"safetensors", "einops"},
    "ssdd-metrics": {"safetensors", "numpy"},
}
HEAVY_TORCH = ("torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.onnx", "torch.utils.tensorboard")
PROBE = """
import json, sys
import torch
before = set(sys.modules)
import {module}
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def run(*command: object, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def uv() -> str:
    found = os.environ.get("UV") or shutil.which("uv")
    assert found, "expected uv on the path: pip install uv"
    return found


@pytest.fixture(scope="module", params=DECLARED)
def installed(request, uv, tmp_path_factory) -> tuple[str, Path, Path]:
    """A package's name, its wheel, and a Python that has this wheel and what it declares."""
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    run(uv, "build", "--wheel", "--quiet", "--out-dir", folder / "dist", ROOT / "packages" / name, cwd=folder)
    (wheel,) = (folder / "dist").glob("*.whl")
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(uv, "pip", "install", "--quiet", "--python", python, wheel, cwd=folder)
    yield name, wheel, python
    shutil.rmtree(folder / "venv")


def test_wheel_declares_and_holds_what_it_should(installed):
    name, wheel, _ = installed
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        (about,) = (Parser().parsestr(archive.read(f).decode()) for f in files if f.endswith(".dist-info/METADATA"))
    required = [line for line in about.get_all("Requires-Dist") if "extra ==" not in line]
    assert {re.match(r"[\w-]+", line)[0] for line in required} == DECLARED[name]
    module = name.replace("-", "_")
    assert {file.split("/")[0].split("-")[0] for file in files} == {module}
    assert f"{module}/py.typed" in files
    assert any(file.endswith("/LICENSE") for file in files)
    assert about["License-Expression"] == "Apache-2.0"
    assert len(about.get_payload()) > 1000  # its README


def test_import_is_light(installed, tmp_path):
    name, _, python = installed
    module = name.replace("-", "_")
    new = json.loads(run(python, "-I", "-W", "ignore", "-c", PROBE.format(module=module), cwd=tmp_path))
    foreign = {entry.split(".")[0] for entry in new} - set(sys.stdlib_module_names) - {module, "torch"}
    assert foreign <= LIGHT[name] | {entry for entry in foreign if entry.startswith("_")}
    assert [entry for entry in new if entry.startswith(HEAVY_TORCH)] == []


def test_readme_runs_with_the_declared_dependencies_only(installed, tmp_path):
    name, _, python = installed
    text = (ROOT / "packages" / name / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    (tmp_path / "readme.py").write_text("\n".join(blocks))
    run(python, "-I", "-W", "ignore", tmp_path / "readme.py", cwd=tmp_path)


def test_other_packages_are_not_needed(installed, tmp_path):
    name, _, python = installed
    others = [other.replace("-", "_") for other in (*DECLARED, "ssdd") if other != name]
    code = f"import importlib.util as u; print([m for m in {others} if u.find_spec(m)])"
    assert run(python, "-I", "-c", code, cwd=tmp_path).strip() == "[]"
