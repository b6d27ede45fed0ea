"""The real project in a folder of its own, with an environment `tiny` that runs in seconds."""

import collections
import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# For the decoder package's tests of GPU kernels, if these tests run in the same process and import Triton first.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parents[1]
WARM = Path(__file__).with_name("warm.py")
# eight steps: the optimiser's first five leave the weights as they are
STAGE = "{epochs: 1, batch_size: 4, im_size: 32, eval_images: 8, log_every: 2, optim: {lr: 0.01}}"
REGRESSION = STAGE.replace("epochs: 1", "epochs: null")
TINY = f"""
data: {{sample: {{train_images: 32, validation_images: 12, crop_min: 64, crop_max: 128, canvases: 1}}}}
train_encoder: {STAGE}
z_stats: {{im_size: 32}}
latents: {{im_size: 32, batch_size: 8, shard_size: 16}}
train_generator: {{size: debug, epochs: 2, batch_size: 8, log_every: 2, eval_every: 1, optim: {{lr: 0.001}}}}
generate: {{count: 6, classes: [1, 1, 1, 0], steps: 3, other_steps: [2], batch_size: 4, teacher_steps: 2, shown: 4}}
sample_speed: {{rounds: 1, batch_size: 1, threads: 1}}
generation_speed:
  {{size: debug, latents: [f8c4], pixels: 32, decoder: debug, decoder_steps: [1], kl_width: 32, steps: 2,
   timed_steps: 1, threads: 1}}
pretrain: {STAGE}
finetune: {STAGE}
teacher_targets: {{teacher_steps: 2, images: 32, shard_size: 16}}
distill: {STAGE}
train_kl: {REGRESSION}
feed_forward: {REGRESSION}
compare_speed: {{pixels: [], rounds: 2, threads: 1}}
compare_grid: {{images: 2, crop: 16}}
evaluate:
  {{im_size: 32, batch_size: 8, teacher_steps: [2, 1], metrics: [psnr, ssim_gaussian, frechet_random_conv], shown: 4,
   photographs: 2, photograph_side: 64}}
benchmark:
  decoding: [{{sizes: [debug], pixels: [32], sides: [ssdd, dense], rounds: 2}}]
  threads: 1
  training:
    {{size: debug, pixels: 16, batch_size: 2, checkpointing_pixels: 16, distillation_pixels: 16, rounds: 1}}
  scale: {{encoder: debug, size: debug, pixels: 16, batch_size: 16, steps: 1, photographs: 32}}
  exported: [{{decoders: [debug], pixels: [32], sides: [eager, onnxruntime, openvino_bfloat16], rounds: 1}}]
  quality_rounds: 2
runtime: {{threads: 1, trainings_at_once: 1, trackers: []}}
"""
FILES = ("pyproject.toml", ".telemetry", "README.md", "LICENSE")
DECISIONS = r"^(\S+\.\S+)\s+(up to date|not needed|run|resume|continue|if changed)( .*)?$"
# Files that take long, in the order in which two processes take them; all others follow. Of those at the top only the
# first waits for `finished`, which the other process finds made when it comes to it.
FIRST = (
    "faults/test_killed.py",
    "recipe/test_recipe.py",
    "faults/test_killed_ranks.py",
    "faults/test_long_sampling.py",
    "faults/test_mutated_images.py",
    "faults/test_properties.py",
    "faults/test_hostile_input.py",
    "test_readme_commands.py",
    "pipelines/test_quickstart.py",
    "pipelines/test_stale_stages.py",
    "faults/test_disk_filled.py",
    "faults/test_corruption.py",
    "test_wheels.py",
    "test_parity.py",
    "training/test_training_resume.py",
    "training/test_under_torchrun.py",
    "training/test_training_processes.py",
    "pipelines/test_kedro_commands.py",
    "pipelines/test_kedro_shell.py",
    "pipelines/test_full_disk.py",
    "pipelines/test_viz.py",
    "pipelines/test_benchmark.py",
    "pipelines/test_evaluate_processes.py",
    "faults/test_two_at_once.py",
    "faults/test_bad_images.py",
    "test_demo_notebook.py",
)
NOT_CODE = shutil.ignore_patterns("__pycache__", "tests", "dist", "*.egg-info")

Finished = subprocess.CompletedProcess[str]

# two processes run the tests (see pyproject.toml), so that each takes one core; so do the processes that they start
os.environ.setdefault("OMP_NUM_THREADS", "1")
# without compiled modules, each of the hundreds of processes that tests start would compile thousands, for ten seconds
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# a shell that starts pytest in the background makes it ignore this signal, which the tests' processes would inherit
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks folders whose tests start processes as slow, and puts the longest files first."""
    here = Path(__file__).parent
    for item in items:
        if {here / "pipelines", here / "faults"} & set(item.path.parents):
            item.add_marker(pytest.mark.slow)
    turn = {here / name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: turn.get(item.path, len(FIRST)))


_faults: dict[str, collections.Counter[str]] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Adds up the counts that tests/faults attaches to each test; pytest-xdist brings them from its processes."""
    for name, value in report.user_properties if report.when == "call" else ():
        if name == "fault":
            what, numbers = value
            _faults.setdefault(what, collections.Counter()).update(numbers)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints the counts of the faults."""
    if not _faults:
        return
    terminalreporter.section(f"faults (SSDD_FAULT_SEED={os.environ.get('SSDD_FAULT_SEED', '0')})")
    together = collections.Counter(tried=0, survived=0)
    for what, row in _faults.items():
        terminalreporter.write_line(f"{what}: {_told(row)}")
        together.update({name: row[name] for name in together})
    terminalreporter.write_line(f"all faults: {_told(together)}")


def _told(row: collections.Counter[str]) -> str:
    lost = row["tried"] - row["survived"]
    numbers = ", ".join(f"{number} {name}" for name, number in row.items())
    return f"{numbers}, {f'{lost} LOST' if lost else 'nothing lost'}"


class Warm:
    """Runs Python programs that need not import torch, Kedro and the like again; see warm.py.

    The server starts with the first program. Nothing is downloaded in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None

    def command(self, *program: str) -> list[str]:
        """Returns the command that runs a program (a script or `-m`, a module; arguments) in the server."""
        address = self._folder / "socket"
        if self._server is None:
            left_out = ("COLUMNS", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # each program has its own
            environment = {name: value for name, value in os.environ.items() if name not in left_out}
            self._server = subprocess.Popen(
                [sys.executable, str(WARM), str(address)],
                cwd=ROOT,  # Kedro reads conf/logging.yml there
                env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,  # which ends with this process, even a killed one
                start_new_session=True,
            )
        while not address.exists():
            assert self._server.poll() is None, "the server of warm.py has ended"
            time.sleep(0.05)
        return [sys.executable, "-I", "-S", str(WARM), str(address), *program]

    def close(self) -> None:
        """Ends the server and all that still runs in it."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(30)


class Project:
    """A copy of the project, with its own sources of every package; its commands run those sources.

    Args:
        folder: of the copy.
        warm: runs `kedro run`; without it each command starts a Python of its own.
    """

    def __init__(self, folder: Path, warm: Warm | None = None) -> None:
        self.folder, self.warm = folder, warm
        self.run_folder = folder / "data" / "quickstart"
        sources = [str(path) for path in sorted((folder / "packages").glob("*/src"))]
        self.environment = {
            **os.environ,
            "COLUMNS": "250",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sources),
        }

    def start(self, *arguments: str, warm: Warm | None = None) -> subprocess.Popen[str]:
        """Starts a kedro command, in a process group of its own."""
        command = ["-m", "kedro", *arguments]
        return subprocess.Popen(
            warm.command(*command) if warm else [sys.executable, *command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kedro(self, *arguments: str, stdin: str | None = None, timeout: float = 1200) -> Finished:
        """Runs a kedro command; `stdout` of the result has both of its output streams."""
        process = self.start(*arguments, warm=self.warm if arguments[0] == "run" else None)
        said, _ = process.communicate(stdin, timeout=timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, said, "")

    def run(self, *arguments: str) -> Finished:
        """Runs `kedro run` in the environment `tiny`, which must not fail."""
        done = self.kedro("run", "--env=tiny", *arguments)
        assert done.returncode == 0, done.stdout
        return done

    def ran(self, *arguments: str) -> set[str]:
        """Runs and returns the nodes that were not skipped."""
        return set(re.findall(r"done: (\S+) in", self.run(*arguments).stdout))

    def plan(self, *arguments: str) -> dict[str, tuple[str, str]]:
        """Returns node -> (decision, why), as `kedro run --plan` shows it."""
        said = self.run("--plan", *arguments).stdout
        decided = re.findall(DECISIONS, said, re.MULTILINE)
        assert decided, said
        return {node: (decision, why.strip()) for node, decision, why in decided}

    def stale(self, *arguments: str) -> dict[str, tuple[str, str]]:
        """Returns the nodes that the plan does not call up to date."""
        return {k: v for k, v in self.plan(*arguments).items() if v[0] not in ("up to date", "not needed")}

    def edit(self, name: str, old: str, new: str) -> None:
        """Replaces a passage of a source file."""
        path = self.folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """The server of this process of pytest."""
    with tempfile.TemporaryDirectory(prefix="ssdd-") as folder:  # the path of a socket must be short
        server = Warm(Path(folder))
        yield server
        server.close()


@pytest.fixture(scope="session")
def project(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project that no test edits."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    for name in ("pipelines", "packages"):
        shutil.copytree(ROOT / name, folder / name, ignore=NOT_CODE)
    (folder / "conf" / "tiny").mkdir()
    (folder / "conf" / "tiny" / "parameters.yml").write_text(TINY)
    return Project(folder, warm)


@pytest.fixture(scope="session")
def finished(project: Project, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The first run of the whole pipeline. One process of pytest-xdist makes it, and the others copy it."""
    import fcntl  # not on Windows, where the tests that need this are not run

    command = ("run", "--pipeline=distill", "--env=tiny")
    cold = Project(project.folder)  # as a user starts it
    if not hasattr(request.config, "workerinput"):
        return cold.kedro(*command)
    made, told = (tmp_path_factory.getbasetemp().parent / name for name in ("finished", "finished.json"))
    with open(f"{made}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if told.exists():
            shutil.copytree(made, project.folder, copy_function=link_weights, dirs_exist_ok=True)
        else:
            done = cold.kedro(*command)
            shutil.copytree(project.folder, made, copy_function=link_weights)
            told.write_text(json.dumps([done.returncode, done.stdout]))
    return Finished(command, *json.loads(told.read_text()), "")


def link_weights(source: str, target: str) -> None:
    """Copies a file, or makes a link to a checkpoint."""
    Path(target).unlink(missing_ok=True)  # a link replaces nothing, and both projects hold the packaged model
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


@pytest.fixture
def copied(project: Project, finished: Finished, tmp_path: Path) -> Project:
    """A copy of the finished project for a test to edit. Checkpoints are links: replace them, never write into them."""
    assert finished.returncode == 0, finished.stdout
    shutil.copytree(project.folder, tmp_path / "project", copy_function=link_weights)
    return Project(tmp_path / "project", project.warm)


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """Opens a page in a Chromium without a window, and returns what it says."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs a Chromium on the path: apt-get install -y chromium")
    quiet = ("disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-sync")
    quiet += ("headless", "no-sandbox", "disable-component-update", f"user-data-dir={tmp_path / 'profile'}")

    def open_page(page: str, *options: str) -> str:
        settings = [f"--{name}" for name in (*quiet, "window-size=1500,1000", "virtual-time-budget=20000", *options)]
        done = subprocess.run([chromium, *settings, page], capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    return open_page


class WebServer:
    """A web server of a folder on this machine, with index pages and byte ranges.

    `faults` holds what the next requests get instead of their files: a status, or `cut` for half of the bytes.
    """

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        self.faults: list[int | str] = []
        server = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *told: Any) -> None:
                pass

            def do_GET(self) -> None:
                fault = server.faults.pop(0) if server.faults else None
                file, part = Path(self.translate_path(self.path)), self.headers.get("Range")
                if isinstance(fault, int):
                    self.send_error(fault)
                elif file.is_file():
                    data = file.read_bytes()
                    if part is not None and ranges:
                        first, last = re.findall(r"bytes=(\d+)-(\d*)", part)[0]
                        data = data[int(first) : int(last) + 1 if last else None]
                    self.send_response(206 if part is not None and ranges else 200)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                else:
                    super().do_GET()

        handler = functools.partial(Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="session")
def web_server() -> Iterator[Callable[..., WebServer]]:
    """Starts web servers; they end with the session."""
    started: list[WebServer] = []

    def start(folder: Path, **options: Any) -> WebServer:
        started.append(WebServer(folder, **options))
        return started[-1]

    yield start
    for server in started:
        server.stop()
