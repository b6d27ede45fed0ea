"""One process or many: the same curve, the same bytes after a kill, no process left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from ssdd import processes
from ssdd.training.history import read_rows

TWO = {"processes": 2}


def group_of(folder: Path) -> list[int]:
    """Processes whose command line or environment names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def run_marked(toy_script, options, tmp_path):
    """Starts a toy run whose processes can all be found again by their environment."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def start(**changes) -> subprocess.Popen:
        request = json.dumps([str(tmp_path / "run"), str(tmp_path / "log"), [options(runtime=TWO, **changes)]])
        process = subprocess.Popen(
            [sys.executable, str(toy_script)],
            stdin=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MARK": str(tmp_path), "TMPDIR": str(temporary)},
        )
        assert process.stdin is not None
        process.stdin.write(request + "\n")
        process.stdin.close()
        return process

    return start


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(run_toy, options, tmp_path):
    every = {"log_every": 1, "epochs": 5}
    for name, runtime in (("one", {}), ("two", TWO)):
        codes, output = run_toy(tmp_path / name, options(config=every, runtime=runtime))
        assert codes == [0], output
    one, two = (read_rows(tmp_path / name / "history.csv") for name in ("one", "two"))
    assert len(one) == len(two) >= 20
    for a, b in zip(one, two, strict=True):
        for name in ("loss", "mse", "gradient_norm", "error"):
            if name in a:
                assert a[name] == pytest.approx(b[name], rel=1e-4)


@pytest.mark.slow
def test_two_processes_resume_exactly(run_toy, options, results, tmp_path):
    codes, output = run_toy(tmp_path / "whole", options(runtime=TWO))
    assert codes == [0], output
    kills = [options(runtime=TWO, kill_at=[1, 9]), options(runtime=TWO, kill_at=[0, 25])]
    stop = options(runtime=TWO, term_at=33, term_parent=True)
    codes, output = run_toy(tmp_path / "killed", *kills, stop, options(runtime=TWO))
    assert codes == [1, 1, 143, 0], output
    assert "killed by SIGKILL" in output
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"raise_at": [1, 5]}, {"kill_at": [0, 5]}, {"nan_at": 5}])
def test_a_failing_rank_ends_all_with_its_story(run_marked, toy_script, tmp_path, fault):
    process = run_marked(**fault, stamp=str(tmp_path / "stamp"))
    codes = tmp_path / "log.codes"
    process.wait(180)
    assert codes.read_text() == "[1]"
    assert codes.stat().st_mtime - float((tmp_path / "stamp").read_text()) < 30
    # what the call raised and the toy printed last, not what a worker wrote by itself
    _, told, story = (tmp_path / "log").read_text().rpartition("WorkerFailed: worker of rank ")
    assert told
    source = toy_script.read_text().splitlines()
    line = next(n for n, text in enumerate(source, 1) if 'RuntimeError("the toy broke' in text)
    expected = {
        "raise_at": [f'File "{toy_script}", line {line}, in forward', "RuntimeError: the toy broke on purpose"],
        "kill_at": ["0 was killed by SIGKILL"],
        "nan_at": ["NotFiniteError: edge is not finite", "step 5", "image-"],
    }
    for part in expected[next(iter(fault))]:
        assert part in story
    deadline = time.monotonic() + 30
    while group_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert group_of(tmp_path) == []


@pytest.mark.slow
def test_workers_die_with_their_parent(run_marked, tmp_path, monkeypatch):
    process = run_marked(config={"epochs": 100000})
    deadline = time.monotonic() + 120
    while not list((tmp_path / "run").glob("state-*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    # the server's child is the one that launched the workers
    launcher = int(subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()[0])
    os.kill(launcher, signal.SIGKILL)
    process.wait(60)
    deadline = time.monotonic() + 30
    while group_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert group_of(tmp_path) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    left = list((tmp_path / "tmp").glob("ssdd-workers-*"))
    assert len(left) == 1
    monkeypatch.setattr(
        "torch.distributed.launcher.api.elastic_launch", lambda config, function: lambda *arguments: {0: None}
    )
    processes.launch(print, 2)
    assert list((tmp_path / "tmp").glob("ssdd-workers-*")) == []


def test_folders_of_killed_launchers_go_and_those_of_live_ones_stay(tmp_path, monkeypatch):
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait()
    names = [f"ssdd-workers-{over.pid}-ab_c-d", f"ssdd-workers-{os.getpid()}-ab", "ssdd-workers-x-y", "other"]
    for name in names:
        (tmp_path / name / "none_1").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []

    def take(config, function):
        seen.extend(path.name for path in tmp_path.iterdir())
        return lambda *arguments: {0: "first"}

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", take)
    assert processes.launch(print, 2) == "first"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    (own,) = set(seen) - set(names)
    assert own.startswith(f"ssdd-workers-{os.getpid()}-")


def test_signals_are_noted_and_a_stuck_run_ends_all_the_same():
    from ssdd.training.interrupts import Interrupts

    left: list[int] = []
    gone = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        gone.set()

    before = signal.getsignal(signal.SIGTERM)
    with Interrupts(grace=0.05, leave=leave) as interrupts:
        assert interrupts.received == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert gone.wait(10)
        assert interrupts.received == signal.SIGTERM
    assert left == [143]
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_in_time_end_nothing():
    from ssdd.training.interrupts import Interrupts

    left: list[int] = []
    with Interrupts(grace=30, leave=left.append):
        os.kill(os.getpid(), signal.SIGINT)
    for thread in threading.enumerate():
        if thread.name == "signal-watch":
            thread.join(10)
    assert left == []
