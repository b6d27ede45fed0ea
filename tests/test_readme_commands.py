"""Every command line of the READMEs and the manual is executed, as it is written there, in a copy of the repository.

What is not as at a user's:
* `pip` finds the wheels of this repository, built here, instead of a package index, and the third-party packages that
  they ask for are those of the environment that runs the tests; the wheel of `uv` is one that calls this machine's uv.
* `uv run` uses the environment that runs the tests, as it is. The first `kedro` and the first `ssdd` start as they do
  for a user; the later ones are run by warm.py, which imports torch and the like only once.
* The files of `conf` in the copy have smaller sizes and counts, and `conf/imagenet` has neither LPIPS nor DINOv2 nor
  Inception (see tests/recipe for those). The benchmark's defaults are smaller too.
* `pytest` is told by PYTEST_ADDOPTS to run one file of tests.
* `kedro viz run`, a server, is stopped once it has answered.
* `photos` and `imagenet` are made here.
* A line that an earlier page has, that `.ci/run` runs by itself (perhaps with more options), or that test_manual.py
  runs, is not repeated. Blocks marked `text` are not run: they need something of others, or a published package. Of the
  manual's own pages, only blocks are run.
* `ssdd doctor` may say that the command is of another installation than the copy, which is so here.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("ssdd-encoder", "ssdd-decoder", "ssdd-metrics")
READMES = ("README.md", "CONTRIBUTING.md", *(f"packages/{name}/README.md" for name in PACKAGES))
PAGES = sorted((ROOT / "pipelines/docs").rglob("*.md"))
MANUAL = ("pipelines/README.md", *(str(page.relative_to(ROOT)) for page in PAGES))
PROGRAMS = ("uv", "pip", "kedro", "ssdd", "python", "pytest", "git", "torchrun")
STAGE = {
    "epochs": 1,
    "batch_size": 4,
    "im_size": 32,
    "eval_images": 2,
    "eval_steps": 1,
    "eval_metrics": ["psnr"],
    "best_metric": "psnr",
}
STAGE |= {"best_is": "highest", "loss": {"perceptual": "msgrad", "repa": 0}}
SMALL = {
    "prepare": {"held_out": 0.3, "max_rejected": 0.2},
    "model": {"encoder": "debug", "decoder": "debug"},
    **{name: STAGE for name in ("train_encoder", "pretrain", "finetune", "distill", "feed_forward")},
    "train_kl": STAGE | {"epochs": 2},
    "latents": {"im_size": 32, "batch_size": 4},
    "train_generator": {"size": "debug", "patch_size": 1, "epochs": 1, "batch_size": 2, "num_classes": None},
    "generate": {"count": 5, "classes": [], "steps": 2, "other_steps": [], "batch_size": 5, "teacher_steps": 1},
    "sample_speed": {"rounds": 1, "batch_size": 1, "threads": 1},
    "generation_speed": {
        "size": "debug",
        "latents": ["f8c4"],
        "pixels": 32,
        "decoder": "debug",
        "decoder_steps": [1],
        "kl_width": 0,
        "steps": 1,
        "dtype": "float32",
        "rounds": 1,
        "batch_size": 1,
        "threads": 1,
    },
    "compare_speed": {"pixels": [], "rounds": 1, "threads": 1},
    "z_stats": {"im_size": 32},
    "teacher_targets": {"images": None, "teacher_steps": 1},
    "evaluate": {
        "im_size": 32,
        "batch_size": 4,
        "limit": 2,
        "teacher_steps": [8, 1],
        "metrics": ["psnr", "ssim_gaussian", "frechet_random_conv"],
        "photographs": 1,
        "photograph_side": 64,
    },
    "benchmark": {
        "threads": 1,
        "decoding": [{"sizes": ["debug"], "pixels": [32], "sides": ["ssdd", "dense"], "rounds": 1}],
        "training": {
            "size": "debug",
            "dtypes": ["float32"],
            "pixels": 16,
            "batch_size": 1,
            "checkpointing_pixels": 16,
            "distillation_pixels": 16,
            "distillation_batch_size": 1,
            "teacher_steps": 1,
            "rounds": 1,
        },
        "scale": {
            "encoder": "debug",
            "size": "debug",
            "pixels": 16,
            "batch_size": 8,
            "ranks": [1],
            "steps": 1,
            "photographs": 32,
        },
        "exported": [{"decoders": ["debug"], "pixels": [32], "sides": ["eager"], "rounds": 1}],
        "quality_rounds": 1,
    },
    "runtime": {"workers": 0, "threads": 1, "trackers": []},
}
AFTER_COMMANDS = ("pipelines/docs/generation.md",)  # its Python goes on from its commands; that of others is alone
BENCHMARK = {'"--side", type=int, default=256': '"--side", type=int, default=64', "rand(3000, 2048)": "rand(99, 32)"}
BENCHMARK |= {
    f'"--{name}", type=int, default={n}': f'"--{name}", type=int, default=1'
    for name, n in (("batch", 32), ("repeats", 5))
}
# The commands train and evaluate at 256 px, where a step of one image takes a second.
IMAGENET = {name: {"batch_size": 2, "eval_images": 1} for name in ("train_encoder", "pretrain", "finetune", "distill")}
IMAGENET |= {"evaluate": {"teacher_steps": [2, 1], "limit": 1}}
SMALL_SAMPLE = {"train_images": 8, "validation_images": 4, "crop_min": 64, "crop_max": 96, "canvases": 1}


def commands(readme: str) -> list[str]:
    """The command lines of a page: of fenced blocks and, in a README, those in the text; in their order."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    found = []
    for fence, block, inline in re.findall(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", text, re.DOTALL | re.MULTILINE):
        if fence == "sh" or (fence in ("bash", "console", "shell") and readme not in MANUAL):  # there, a batch script
            found += [line for line in block.splitlines() if line.strip()]
        elif inline.split(" ")[0] in PROGRAMS and " " in inline and readme not in MANUAL:
            found.append(inline)
    return found


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """The repository, with a small configuration, and images to train on."""
    folder = tmp_path_factory.mktemp("readme") / "ssdd"
    left_out = shutil.ignore_patterns(".*_cache", "__pycache__", ".venv", ".git", ".viz", "uv.lock", ".hypothesis")
    runs = {str(ROOT): {"data"}}
    shutil.copytree(ROOT, folder, ignore=lambda place, names: left_out(place, names) | runs.get(place, set()))
    for name, more in (
        ("base", {"data": {"sample": SMALL_SAMPLE}}),
        ("demo", {"data": {"sample": SMALL_SAMPLE}}),
        ("imagenet", IMAGENET),
    ):
        file = folder / "conf" / name / "parameters.yml"
        file.write_text(yaml.safe_dump(merged(merged(yaml.safe_load(file.read_text()), SMALL), more)))
    benchmark = folder / "packages/ssdd-metrics/benchmarks/metric_cost.py"
    text = benchmark.read_text()
    for large, little in BENCHMARK.items():
        assert text.count(large) == 1
        text = text.replace(large, little)
    benchmark.write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)  # for the hooks of pre-commit
    rng = np.random.default_rng(0)
    for number in range(10):
        save_picture(folder / f"photos/{'nested/' * (number % 2)}{number}.jpg", rng)
    for number in range(2):
        for split in ("train", "val"):
            save_picture(folder / f"imagenet/{split}/n01440764/{number}.jpg", rng)
    (folder / "photos/broken.jpg").write_bytes(b"this is a text")
    return folder


def merged(one: dict, other: dict) -> dict:
    both = {
        k: merged(one[k], v) if isinstance(v, dict) and isinstance(one.get(k), dict) else v for k, v in other.items()
    }
    return {**one, **both}


def save_picture(file: Path, rng: np.random.Generator) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    coarse.resize((75, 64), Image.Resampling.BICUBIC).save(file)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """The packages of this repository as wheels, and one of the name of uv."""
    folder = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    for name in PACKAGES:
        source = folder / "sources" / name  # nothing is left in the repository
        shutil.copytree(ROOT / "packages" / name, source)
        subprocess.run([*build, str(source)], check=True, capture_output=True, timeout=600)
    uv = os.environ.get("UV") or shutil.which("uv")
    assert uv, "expected uv on the path: pip install uv"
    with zipfile.ZipFile(folder / "uv-0-py3-none-any.whl", "w") as wheel:
        script = zipfile.ZipInfo("uv-0.data/scripts/uv")
        script.external_attr = 0o100755 << 16  # a regular file that may be executed
        wheel.writestr(script, f'#!/bin/sh\nexec {shlex.quote(uv)} "$@"\n')
        wheel.writestr("uv-0.dist-info/METADATA", "Metadata-Version: 2.1\nName: uv\nVersion: 0\n")
        wheel.writestr("uv-0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(
            "uv-0.dist-info/RECORD", "uv-0.data/scripts/uv,,\nuv-0.dist-info/METADATA,,\nuv-0.dist-info/RECORD,,\n"
        )
    return folder


@pytest.fixture(scope="module")
def shell(house, wheels, warm, tmp_path_factory):
    """Runs a command line in a folder of the copy, in an environment of a user's own."""
    own = tmp_path_factory.mktemp("environment")
    venv.create(own / "venv", with_pip=True)
    (site,) = (own / "venv/lib").glob("python*/site-packages")
    for older in site.glob("setuptools*"):  # Python 3.11 brings one, which would hide the environment's
        shutil.rmtree(older)
    (own / "third").mkdir()
    for place in {Path(entry) for entry in sys.path if entry.endswith("site-packages")}:
        for item in place.iterdir():
            ours = item.name.startswith(
                ("ssdd", "_ssdd", "__editable__", "uv-", "uv.", "pip", "_editable", "_virtualenv")
            )
            if not ours and not item.name.endswith(".pth"):
                (own / "third" / item.name).symlink_to(item)
    (site / "third.pth").write_text(f"{own / 'third'}\n")
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "VIRTUAL_ENV", "UV_", "PIP_"))
    }
    environment |= {
        "PATH": f"{own / 'venv/bin'}:/usr/local/bin:/usr/bin:/bin",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_COMPILE": "1",
        "PIP_FIND_LINKS": str(wheels),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_NO_SYNC": "1",
        "UV_OFFLINE": "1",
        "UV_PROJECT_ENVIRONMENT": sys.prefix,
        "PYTEST_ADDOPTS": "-q -n 0 -p no:cacheprovider packages/ssdd-decoder/tests/test_flow.py",
        "BROWSER": "true",
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }

    quick = {"UV_PROJECT_ENVIRONMENT": str(quick_environment(own / "quick", warm))}
    started = set()

    def call(line: str, folder: Path) -> subprocess.Popen[str]:
        programs = set(line.split()) & {"kedro", "ssdd", "viz"}
        is_first = not programs <= started  # and a server, which is to be stopped as a user does it, starts once
        started.update(programs - {"viz"})
        return subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", line],
            cwd=folder,
            env=environment if is_first else environment | quick,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return call


def quick_environment(folder: Path, warm) -> Path:
    """The environment that runs the tests, but that `kedro` and `ssdd` run in a process that is warm."""
    here = Path(sys.prefix)
    (folder / "bin").mkdir(parents=True)
    for item in here.iterdir():
        if item.name != "bin":
            (folder / item.name).symlink_to(item)
    for item in (here / "bin").iterdir():
        file = folder / "bin" / item.name
        if item.name in ("kedro", "ssdd"):
            file.write_text(f'#!/bin/sh\nexec {shlex.join(warm.command(str(item)))} "$@"\n')
            file.chmod(0o755)
        else:
            file.symlink_to(item)
    return folder


@pytest.fixture(scope="module")
def repeated() -> set[str]:
    """Lines that need not run: CI runs them itself, and those that have run here join them."""
    run = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    return {line.split(" -")[0] for line in run} | {*run, *commands("pipelines/docs/contribute.md")}


def run_all(lines: list[str], folder: Path, shell, repeated: set[str]) -> None:
    assert lines
    for line in lines:
        if line in repeated:
            continue
        start = time.perf_counter()
        process = shell(line, folder)
        if "viz run" in line:
            answers_and_stops(process)
            continue
        said, _ = process.communicate(timeout=1200)
        is_told = "doctor" in line and "of another installation" in said
        assert process.returncode == 0 or is_told, f"{line}\n{said[-6000:]}"
        assert "Traceback" not in said, f"{line}\n{said[-6000:]}"
        print(f"{time.perf_counter() - start:.1f} s: {line}")  # pytest -rP shows it


@pytest.mark.parametrize("readme", READMES)
def test_every_command_line_works(readme, house, shell, repeated):
    if readme in RESULTS:
        run_all(commands(readme), house, shell, repeated)
        repeated.update(commands(readme))
        for result in RESULTS[readme]:
            assert (house / result).is_file(), result
    else:
        name = readme.split("/")[1]
        package = (house / readme).parent
        run_all(commands(readme) + commands(f"packages/{name}/docs/guide.md"), package, shell, set())
        where = shell(
            f"python -c 'import importlib.util as u; print(u.find_spec(\"{name.replace('-', '_')}\").origin)'", house
        )
        said, _ = where.communicate(timeout=60)
        assert "/environment" in said, said  # the wheel's, not the repository's


def test_every_command_line_of_the_manual_works(house, shell, repeated, warm):
    # a page may go on from the runs of the README, which are there if its test has run
    lines = [line for page in ("README.md", *MANUAL) for line in commands(page)]
    assert len(lines) > 40
    run_all(list(dict.fromkeys(lines)), house, shell, repeated)
    for result in RESULTS["manual"]:
        assert (house / result).is_file(), result
    for page in AFTER_COMMANDS:
        blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)
        (house / "page.py").write_text("\n".join(blocks))
        subprocess.run(warm.command(str(house / "page.py")), cwd=house, check=True, timeout=600)


RESULTS = {
    "CONTRIBUTING.md": (".git/hooks/pre-push",),
    "README.md": (
        "data/quickstart/report/report.html",
        "data/mine/report/report.html",
        "data/mine/images/rejected.csv",
        "reconstructed/nested/1.png",
        "reconstructed/rejected.csv",
        "decoded/nested/1.png",
        "latents.safetensors",
    ),
    "manual": (
        "stats.json",
        "card.md",
        "exported/decoder.onnx",
        "data/imagenet/report/report.html",
        "data/at256/models/distilled_best.safetensors",
        "data/compared/evaluation/metrics.csv",
        "samples/000015.png",
        "generator/model_index.json",
        "pipelines/ssdd/models/demo.safetensors.lineage.json",
        "pipelines/ssdd/models/demo.md",
    ),
}


def answers_and_stops(process: subprocess.Popen) -> None:
    """Waits until a server says where it is, asks it for its page, and ends it as Ctrl-C does."""
    try:
        said = ""
        for line in process.stdout:
            said += line
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
            if address:
                break
        else:
            raise AssertionError(said)
        with urllib.request.urlopen(f"{address[0]}/api/main", timeout=60) as page:
            assert b"train_encoder" in page.read()
    finally:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def test_commands_are_found():
    found = commands("README.md")
    assert found[0] == "pip install uv && uv run kedro run --pipeline=distill"
    assert any(line.startswith("uv run ssdd reconstruct") for line in found)
    assert any("--env=imagenet" in line for line in commands("pipelines/docs/recipe.md"))
    inline = re.findall(r"`(?:uv|kedro) run [^`]+`", (ROOT / "pipelines/README.md").read_text(encoding="utf-8"))
    assert inline == []  # of the manual's pages, only blocks are run
