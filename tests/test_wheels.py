"""Each package, installed alone as wheel, from its sdist and editable: it needs only its declared dependencies."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DECLARED = {
    "ssdd-encoder": {"torch", "safetensors"},
    "ssdd-decoder": {"torch", "safetensors"},
    "ssdd-metrics": {"torch", "torchmetrics", "numpy", "safetensors"},
}
NETWORKS = ("ssdd-encoder", "ssdd-decoder")
# Besides torch, only these may be imported with the package; the others are imported where they are used.
LIGHT = {
    "ssdd-encoder": {"safetensors"},
    "ssdd-decoder": {"safetensors"},
    "ssdd-metrics": {"safetensors", "numpy"},
}
# Modules whose source is in ssdd-encoder, with links to it in the other packages.
LINKED = {"ssdd-decoder": ("checkpoint", "files", "header", "sources"), "ssdd-metrics": ("files",), "ssdd": ("files",)}
HEAVY_TORCH = ("torch._dynamo", "torch._inductor", "torch.distributed.fsdp", "torch.onnx", "torch.utils.tensorboard")
PROBE = """
import json, sys
import torch
before = set(sys.modules)
import {module}
for name in {names}:
    getattr({module}, name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


# A quickstart of seconds: see tests/conftest.py for the one of all other tests.
STAGE = "{epochs: 1, batch_size: 4, im_size: 32, eval_images: 8, optim: {lr: 0.01}}"
TINY = f"""
data: {{sample: {{train_images: 16, validation_images: 8, crop_min: 64, crop_max: 128, canvases: 1}}}}
{"".join(f"{name}: {STAGE}{chr(10)}" for name in ("train_encoder", "pretrain", "finetune", "distill"))}
z_stats: {{im_size: 32}}
teacher_targets: {{teacher_steps: 2, images: 16}}
evaluate: {{im_size: 32, teacher_steps: [1], metrics: [psnr], photographs: 1, photograph_side: 64}}
runtime: {{threads: 1, trackers: []}}
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
    names = f"{module}.__all__" if name in NETWORKS else "()"  # metrics are imported on first use for what they need
    probe = PROBE.format(module=module, names=names)
    new = json.loads(run(python, "-I", "-W", "ignore", "-c", probe, cwd=tmp_path))
    foreign = {entry.split(".")[0] for entry in new} - set(sys.stdlib_module_names) - {module, "torch"}
    assert foreign <= LIGHT[name] | {entry for entry in foreign if entry.startswith("_")}
    assert [entry for entry in new if entry.startswith(HEAVY_TORCH)] == []


def test_readme_and_guide_run_with_the_declared_dependencies_only(installed, tmp_path):
    name, _, python = installed
    pages = [ROOT / "packages" / name / page for page in ("README.md", "docs/guide.md")]
    text = "\n".join(page.read_text() for page in pages)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    (tmp_path / "readme.py").write_text("\n".join(blocks))
    run(python, "-I", "-W", "ignore", tmp_path / "readme.py", cwd=tmp_path)


def contents(wheel: Path) -> dict[str, bytes]:
    """The modules of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


@pytest.mark.parametrize("name", [*DECLARED, "ssdd"])
def test_an_sdist_unpacked_elsewhere_makes_the_same_wheel(uv, tmp_path, name):
    """Links become files: the folder that they lead to is not there."""
    source = ROOT if name == "ssdd" else ROOT / "packages" / name
    for kind in ("--sdist", "--wheel"):
        run(uv, "build", kind, "--quiet", "--out-dir", tmp_path, source, cwd=tmp_path)
    (sdist,), (wheel,) = tmp_path.glob("*.tar.gz"), tmp_path.glob("*.whl")
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() for member in archive.getmembers())
        names = archive.getnames()
        archive.extractall(tmp_path / "elsewhere", filter="data")
    assert len(names) == len(set(names))
    (unpacked,) = (tmp_path / "elsewhere").iterdir()
    run(uv, "build", "--wheel", "--quiet", "--out-dir", tmp_path / "again", unpacked, cwd=tmp_path)
    (again,) = (tmp_path / "again").glob("*.whl")
    assert contents(again) == contents(wheel)
    for module in LINKED.get(name, ()):
        original = ROOT / f"packages/ssdd-encoder/src/ssdd_encoder/{module}.py"
        assert contents(wheel)[f"{name.replace('-', '_')}/{module}.py"] == original.read_bytes()


def test_models_that_come_along_are_in_the_wheel_and_the_sdist(uv, tmp_path):
    """In a copy with files in their places, as they are not made yet everywhere."""
    copy = tmp_path / "copy"
    for name in ("pipelines", "packages", "conf"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, copy)
    names = {
        f"ssdd/models/demo.{suffix}"
        for suffix in ("safetensors", "safetensors.lineage.json", "latent_stats.json", "md")
    }
    for name in names:
        (copy / "pipelines" / name).parent.mkdir(exist_ok=True)
        (copy / "pipelines" / name).write_text(name)
    run(uv, "build", "--quiet", "--out-dir", tmp_path, copy, cwd=tmp_path)  # the sdist, and the wheel from it
    (wheel,) = tmp_path.glob("*.whl")
    held = {name: content for name, content in contents(wheel).items() if name.startswith("ssdd/models/")}
    assert held == {name: name.encode() for name in names}


@pytest.mark.parametrize("name", [name for name in LINKED if name in DECLARED])
def test_editable_install_sees_edits_of_the_one_source(uv, tmp_path, name):
    """In a copy of the packages, with links as they are; alone, as nothing but this package is installed."""
    shutil.copytree(ROOT / "packages", tmp_path / "packages", symlinks=True, ignore=shutil.ignore_patterns("tests"))
    python = tmp_path / "venv" / "bin" / "python"
    run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    run(uv, "pip", "install", "--quiet", "--python", python, "--editable", f"packages/{name}", cwd=tmp_path)
    module = name.replace("-", "_")
    for linked in LINKED[name]:
        source = tmp_path / f"packages/ssdd-encoder/src/ssdd_encoder/{linked}.py"
        source.write_text(source.read_text() + "\nEDITED = True\n")
        code = f"import {module}.{linked} as m; print(m.EDITED, m.__name__)"
        assert run(python, "-I", "-W", "ignore", "-c", code, cwd=tmp_path).split() == ["True", f"{module}.{linked}"]
    shutil.rmtree(tmp_path / "venv")


def test_other_packages_are_not_needed(installed, tmp_path):
    name, _, python = installed
    others = [other.replace("-", "_") for other in (*DECLARED, "ssdd") if other != name]
    code = f"import importlib.util as u; print([m for m in {others} if u.find_spec(m)])"
    assert run(python, "-I", "-c", code, cwd=tmp_path).strip() == "[]"


@pytest.fixture(scope="module")
def dist(uv, tmp_path_factory) -> Path:
    """The wheels and sdists of all packages, as a release has them."""
    folder = tmp_path_factory.mktemp("dist")
    run(uv, "build", "--all-packages", "--quiet", "--out-dir", folder, cwd=ROOT)
    assert len(list(folder.glob("*.whl"))) == len(list(folder.glob("*.tar.gz"))) == 4
    return folder


def test_the_first_screen_runs_with_the_wheels_alone(uv, dist, tmp_path):
    """What `ssdd` declares is installed, and nothing else; no clone is near."""
    python = tmp_path / "venv/bin/python"
    run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    run(
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        python,
        "--find-links",
        dist,
        *dist.glob("ssdd-*.whl"),
        cwd=tmp_path,
    )
    (block, *_) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    checked = "import ssdd; assert 'venv' in ssdd.__file__; print(tuple(image.shape))"
    said = run(python, "-I", "-W", "ignore", "-c", f"{block}\n{checked}", cwd=tmp_path)
    assert said.split("\n")[-2] == "(1, 3, 512, 768)"
    without = subprocess.run([tmp_path / "venv/bin/ssdd", "doctor"], cwd=tmp_path, capture_output=True, text=True)
    assert without.stderr == "Error: the ssdd command needs click: pip install 'ssdd[demo]'\n"
    shutil.rmtree(tmp_path / "venv")


def test_kedro_runs_the_quickstart_in_a_project_made_from_the_wheels(uv, dist, tmp_path):
    """With the third-party packages of the environment that runs the tests, as `ssdd[demo]` would bring them."""
    run(uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    binaries = tmp_path / "venv/bin"
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", binaries / "python"]
    run(*install, *dist.glob("*.whl"), cwd=tmp_path)
    (site,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (tmp_path / "third").mkdir()
    for item in Path(sys.prefix).glob("lib/python*/site-packages/*"):
        if not item.name.startswith(("ssdd", "_editable", "__editable__", "_virtualenv")) and item.suffix != ".pth":
            (tmp_path / "third" / item.name).symlink_to(item)
    (site / "third.pth").write_text(f"{tmp_path / 'third'}\n")
    run(binaries / "ssdd", "project", "mine", cwd=tmp_path)
    mine = tmp_path / "mine"
    (mine / "conf/tiny").mkdir()
    (mine / "conf/tiny/parameters.yml").write_text(TINY)
    run(binaries / "python", "-m", "kedro", "run", "--pipeline=distill", "--env=tiny", cwd=mine)
    assert (mine / "data/quickstart/report/report.html").is_file()
    assert "distill.distill_teacher" in run(binaries / "ssdd", "info", "quickstart", cwd=mine)
    found = json.loads(run(binaries / "ssdd", "doctor", "--json", cwd=mine))
    assert (found["project"]["conf"], found["project"]["runs"], found["problems"]) == (True, 1, [])
    shutil.rmtree(tmp_path / "venv")
