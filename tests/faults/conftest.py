"""The project that faults strike: its stages before distillation are done, and it runs in forked processes.

SSDD_FAULT_SEED draws the same faults again, each at the same moment (a killed rank: as soon as a drawn state is seen);
tests/conftest.py prints the counts of faults and survivals at the end.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SEED = int(os.environ.get("SSDD_FAULT_SEED", "0"))
CACHES = (".hashes.sqlite", ".facts.sqlite")  # of all runs, see ssdd.runs
# 24 steps of distillation, a state every three steps, three evaluations
SETTINGS = "distill.epochs=3,runtime.save_every=3,runtime.progress=false"
BEFORE = ("images", "models/encoder", "models/pretrained", "models/finetuned", "models/latent_stats")
BEFORE += ("training/encoder", "training/pretrain", "training/finetune")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers of the session's seed and the test's name."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds to the counts that tests/conftest.py prints at the end: tally("kills", tried=1, survived=1)."""

    def add(what: str, **numbers: int) -> None:
        request.node.user_properties.append(("fault", (what, numbers)))

    return add


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a small model with random weights."""
    from ssdd import SSDD

    return SSDD("f8c4", "debug").save_pretrained(tmp_path_factory.mktemp("model") / "ssdd.safetensors")


@pytest.fixture
def ssdd() -> Callable[..., tuple[int, str, str]]:
    """Runs the command line: (exit status, standard output, error output), decoded strictly."""
    from click.testing import CliRunner

    from ssdd.commands.group import cli

    def run(*arguments: Any, charset: str = "utf-8", columns: int = 160) -> tuple[int, str, str]:
        runner = CliRunner(charset=charset, catch_exceptions=False, env={"COLUMNS": str(columns)})
        done = runner.invoke(cli, [str(argument) for argument in arguments])
        return done.exit_code, done.stdout_bytes.decode(charset), done.stderr_bytes.decode(charset)

    return run


def _link_or_copy(source: Path, target: Path) -> None:
    if source.suffix == ".safetensors":  # large, and never written into
        try:
            os.link(source, target)
            return
        except OSError:  # another disk
            pass
    shutil.copyfile(source, target)


class Attempt:
    """A command under way."""

    def __init__(self, ask: Callable[..., dict], pid: int, log: Path) -> None:
        self._ask, self.pid, self._log = ask, pid, log

    @property
    def said(self) -> str:
        """Its output until now."""
        return self._log.read_text()

    def wait(self) -> int:
        """Returns its exit code."""
        return self._ask(wait=self.pid)["code"]

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False


class Runs:
    """Runs of one project, each with the stages before distillation done, in processes that start at once."""

    def __init__(self, project: Any, logs: Path) -> None:
        self.project, self.data, self._logs = project, project.folder / "data", logs
        sources = [str(path) for path in sorted((project.folder / "packages").glob("*/src"))]
        paths = os.pathsep.join([str(project.folder / "pipelines"), *sources])
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forkserver.py"))],
            cwd=project.folder,
            env={**project.environment, "PYTHONPATH": paths, "SSDD_FAULTS": str(logs)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._numbers = itertools.count()

    def close(self) -> None:
        """Ends the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)

    def folder(self, name: str) -> Path:
        """The folder of a run."""
        return self.data / name

    def prepare(self, name: str) -> Path:
        """Makes a run of which everything before distillation is done; its weights are links."""
        here, there = self.folder("quickstart"), self.folder(name)
        for path in sorted(here.rglob("*")):
            part = path.relative_to(here).as_posix()
            if path.is_file() and part.startswith(BEFORE) and not (there / part).exists():
                (there / part).parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(path, there / part)
        return there

    def start(
        self,
        name: str,
        *arguments: str,
        fault: dict | None = None,
        room: int | None = None,
        settings: str = SETTINGS,
    ) -> Attempt:
        """Starts `kedro run` up to the distillation's report; `room`: bytes that it may take."""
        return self.start_command("kedro", *self.command(name, *arguments, settings=settings), fault=fault, room=room)

    def command(self, name: str, *arguments: str, settings: str = SETTINGS) -> list[str]:
        """The arguments of kedro."""
        return ["run", "--pipeline=distill", "--env=tiny", f"--params=run_name={name},{settings}", *arguments]

    def start_command(self, *command: str, fault: dict | None = None, room: int | None = None) -> Attempt:
        """Starts kedro or a script."""
        log = self._logs / f"{next(self._numbers)}.log"
        log.touch()
        pid = self._ask(start=command, log=str(log), fault=fault, room=room)["pid"]
        return Attempt(self._ask, pid, log)

    def run(self, name: str, *arguments: str, fault: dict | None = None, settings: str = SETTINGS) -> tuple[int, str]:
        """Runs and returns the exit code and what it printed."""
        attempt = self.start(name, *arguments, fault=fault, settings=settings)
        return attempt.wait(), attempt.said

    def contents(self, name: str) -> dict[str, bytes]:
        """Bytes of every artefact of a run but the report, which names the moment and the machine."""
        folder = self.folder(name)
        files = [path for path in folder.rglob("*") if path.is_file() and folder / "state" not in path.parents]
        told = [path for path in files if path.suffix != ".html" and ".lineage." not in path.name]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(told)}

    def leftovers(self, name: str) -> list[Path]:
        """Temporary files, locks and folders put aside in a run."""
        odd = [path for path in self.folder(name).rglob("*") if path.name.startswith(".") or "unnamed" in path.name]
        return odd + [path for path in self.data.iterdir() if path.is_file() and path.name not in CACHES]

    def processes(self) -> list[int]:
        """Processes of this project that run, but the server."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                mine = f"SSDD_FAULTS={self._logs}\0".encode() in (process / "environ").read_bytes()
            except OSError:
                continue
            if mine and int(process.name) != self._server.pid:
                found.append(int(process.name))
        return found

    def wait_for_processes(self, seconds: float = 30) -> list[int]:
        """Returns the processes that still run after that time."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left

    def listening(self) -> set[str]:
        """Sockets on which a process of this project, or the server, listens for TCP connections."""
        found = set()
        for pid in [*self.processes(), self._server.pid]:
            for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
                with contextlib.suppress(OSError):
                    found.add(os.readlink(descriptor))
        return self.still_open(found)

    @staticmethod
    def still_open(sockets: set[str]) -> set[str]:
        """Those of the sockets (`socket:[number in the kernel]`) on which anybody listens."""
        tables = [path for path in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if path.exists()]
        rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
        return sockets & {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}  # 0A: it listens

    def _ask(self, **request: Any) -> dict:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return json.loads(self._server.stdout.readline())


@pytest.fixture(scope="session")
def runs(project: Any, finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    assert finished.returncode == 0, finished.stdout
    made = Runs(project, tmp_path_factory.mktemp("runs"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def undisturbed(runs: Runs) -> dict[str, bytes]:
    """The artefacts of a run to which nothing happened."""
    runs.prepare("undisturbed")
    code, said = runs.run("undisturbed")
    assert code == 0, said
    return runs.contents("undisturbed")
