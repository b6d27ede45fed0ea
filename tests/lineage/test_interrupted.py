"""Kills, full disks, damaged bookkeeping and two runs at once: nothing is lost, nothing is silently wrong."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from ssdd.lineage.run_lock import lock_run
from ssdd.lineage.stamps import read_stamp, stamp_path

ARTEFACTS = (
    "table.csv",
    "weights.safetensors",
    "weights_best.safetensors",
    "history.json",
    "figure.png",
    "summary.txt",
)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ARTEFACTS}


def leftovers(folder):
    return [path for path in folder.rglob("*") if ".partial" in path.name]


def wait_for(project, process, note):
    while note not in project.log.read_text():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


def wait_for_notes(project, process, count):
    """Returns when the nodes have noted so much, or all is done."""
    while len(project.notes()) < count and process.poll() is None:
        time.sleep(0.01)


@pytest.fixture
def undisturbed(project):
    """What the run makes when nothing happens to it."""
    project.run(params={"run_name": "undisturbed", "train": {"epochs": 6}})
    return contents(project.folder / "data" / "undisturbed")


def test_a_killed_stage_resumes_to_the_same_bytes(project, undisturbed):
    process = project.start("run", "--params", "train.epochs=6,runtime.pause=0.3")
    wait_for(project, process, "epoch 2")
    for folder in (project.data, project.folder / ".viz"):
        (folder / ".history.json.x.partial.json").write_text("half")
    process.kill()
    process.communicate()
    params = {"train": {"epochs": 6}}
    action, why = project.plan(params=params)["train"]
    assert (action, why) == ("resume", "missing weights; missing weights_best; missing history")
    notes = project.run(params=params)
    assert notes[0] == "measure"
    assert notes[1] in ("train from 2", "train from 3")
    assert contents(project.data) == undisturbed
    assert leftovers(project.folder) == []


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(project, undisturbed):
    seed = int(os.environ.get("SSDD_FAULT_SEED", "0"))
    chance = random.Random(seed)
    for _ in range(8):
        process = project.start("run", "--params", "train.epochs=6,runtime.pause=0.05")
        wait_for_notes(project, process, chance.randint(0, 6))
        process.kill()
        process.communicate()
    project.run(params={"train": {"epochs": 6}})
    assert contents(project.data) == undisturbed, f"seed {seed}"
    assert leftovers(project.folder) == []
    assert project.run(params={"train": {"epochs": 6}}) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupt_leaves_a_clean_state(project, number):
    process = project.start("run", "--params", "runtime.pause=30")
    wait_for(project, process, "train from 0")
    process.send_signal(number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "the same command goes on from there" in output
    assert "Traceback" not in output
    assert leftovers(project.folder) == []
    assert not (project.data / ".lock").exists()
    assert project.run()[1] == "train from 0"


NATIVE = """note("draw")
    import threading
    import torch
    matrix = torch.randn(6000, 6000, dtype=torch.float64)
    threading.Timer(0.5, note, ["busy"]).start()
    (weights.parent / ".figure.png.x.partial.png").write_text("half")
    torch.linalg.svd(matrix)  # minutes
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_native_call_of_minutes_does_not_hold_a_run(project, number):
    nodes = (project.folder / "pipelines/toy/nodes.py").read_text()
    project.edit("nodes.py", 'note("draw")\n', NATIVE)
    process = project.start("run")
    wait_for(project, process, "busy")
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted in the middle of a long computation" in output
    assert leftovers(project.folder) == []
    assert not (project.data / ".lock").exists()
    project.write("pipelines/toy/nodes.py", nodes)
    assert "busy" not in project.run()
    assert (project.data / "figure.png").is_file()


def test_a_second_run_at_once_is_refused_and_told_about_the_first(project):
    first = project.start("run", "--params", "runtime.pause=30")
    wait_for(project, first, "train from 0")
    try:
        with pytest.raises(
            ValueError, match=rf"run 'first' is in use by process {first.pid} since 20.*runtime.pause=30"
        ):
            project.run()
        assert project.run(params={"run_name": "second"})[0] == "clean"  # another run is free
    finally:
        first.kill()
        first.communicate()
    assert project.run()[-1] == "tell"  # a dead holder never blocks


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_holder_that_has_not_said_its_name_yet_is_named_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "run/.lock"
    path.parent.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"

    def say(seconds):  # what the holder does in the meantime
        path.write_text(json.dumps({"pid": holder.pid, "command": "kedro run", "since": "2000-01-01 00:00:00"}))

    monkeypatch.setattr("ssdd.lineage.run_lock.time.sleep", say)
    told = rf"in use by process {holder.pid} since 2000-01-01 00:00:00: kedro run;"
    with pytest.raises(ValueError, match=told), lock_run(path.parent, "second"):
        pass
    holder.communicate()
    with lock_run(path.parent, "third"):
        pass


def test_two_sessions_of_one_process_exclude_each_other(tmp_path):
    with lock_run(tmp_path / "run", "first"):
        with pytest.raises(ValueError, match="another session"), lock_run(tmp_path / "run", "second"):
            pass
        with lock_run(tmp_path / "other", "second"):
            pass
    with lock_run(tmp_path / "run", "third"):
        pass


def test_a_damaged_stamp_is_redone(project):
    project.run()
    stamp = stamp_path(project.data / "table.csv")
    intact = stamp.read_bytes()
    damages = [
        b"",
        b"{",
        intact[: len(intact) // 2],
        b"\xff\xfe" * 50,
        b"[1, 2]",
        b"null",
        b"{}",
        b"[" * 100_000,
    ]
    chance = random.Random(0)
    for _ in range(200):
        place = chance.randrange(len(intact))
        damages.append(intact[:place] + bytes([intact[place] ^ (1 << chance.randrange(8))]) + intact[place + 1 :])
    for damage in damages:
        stamp.write_bytes(damage)
        assert read_stamp(project.data / "table.csv") is None, damage[:200]
    assert project.plan()["clean"] == ("run", "no intact stamp of table")
    assert project.run() == ["clean"]
    content = json.loads(intact)  # well-formed, another content: an input that was never there
    content["identity"]["inputs"]["source"] = "0" * 64
    stamp.write_text(json.dumps(content, indent=2))
    assert project.run() == ["clean"]


def test_a_state_of_something_else_is_never_continued(project):
    project.run()
    marker = project.data / "state/training.train/lineage.json"
    for damage in ("", "{}", '{"fingerprint": "0", "extends": {}}', "[]"):
        marker.write_text(damage)
        (project.data / "weights.safetensors").unlink()
        assert project.plan()["train"][0] == "run"
        assert "train from 0" in project.run()


def test_a_stage_that_saved_nothing_is_not_called_resumed(project):
    project.edit("training.py", 'file = folder / "state.json"', "raise RuntimeError('no luck')")
    with pytest.raises(RuntimeError, match="no luck"):
        project.run()
    project.edit("training.py", "raise RuntimeError('no luck')", 'file = folder / "state.json"')
    project.load()
    assert project.plan()["train"][0] == "run"
    assert project.run()[1] == "train from 0"


def test_a_damaged_hash_cache_costs_time_only(project):
    project.run()
    cache = project.folder / "data/.hashes.sqlite"
    for damage in (b"", b"rubbish" * 1000, cache.read_bytes()[:3000]):
        cache.write_bytes(damage)
        assert project.run() == []
    cache.unlink()
    cache.mkdir()
    assert project.run() == []


def test_a_failing_node_keeps_what_was_finished_before_it(project):
    project.edit("training.py", "folder = state_folder()", "raise RuntimeError('no luck')")
    with pytest.raises(RuntimeError, match="no luck"):
        project.run()
    project.edit("training.py", "raise RuntimeError('no luck')", "folder = state_folder()")
    assert project.run()[:2] == ["measure", "train from 0"]


def test_a_full_disk_keeps_the_previous_files(project, monkeypatch):
    import ssdd.files as files

    project.run()
    before = contents(project.data)
    change = {"train": {"lr": 0.125}}
    fsync = os.fsync
    places = ("state.json", "weights.safetensors", "history.json", "figure.png", "summary.txt", "txt.lineage")
    for place in places:

        def full(descriptor: int, place: str = place) -> None:
            if place in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
            fsync(descriptor)

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(Exception, match="No space left"):
            project.run(params=change)
        monkeypatch.setattr(files.os, "fsync", fsync)
        assert leftovers(project.folder) == []
        if place in ("state.json", "weights.safetensors"):
            assert contents(project.data) == before
    project.run(params=change)
    project.run(params={**change, "run_name": "calm"})
    assert contents(project.data) == contents(project.folder / "data/calm")


@pytest.mark.slow
def test_a_full_disk_for_real(project):
    """On a small tmpfs, filled at each of several sizes; after space is freed the same command finishes."""
    data = project.folder / "data"
    data.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(data)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {mounted.stderr.decode().strip()}")
    try:
        failed = 0
        for free in (0, 8, 16, 28, 44):  # KiB
            shutil.rmtree(project.data, ignore_errors=True)
            ballast = data / "ballast"
            ballast.write_bytes(b"")
            room = shutil.disk_usage(data).free
            ballast.write_bytes(bytes(max(0, room - free * 1024)))
            status, output = project.kedro("run")
            failed += status != 0
            assert "Traceback" not in output
            assert status == 0 or "No space left on device" in output or "disk is full" in output, output
            assert leftovers(data) == []
            ballast.unlink()
            project.run()
            assert project.run() == []
        assert failed >= 3
    finally:
        subprocess.run(["umount", "-l", str(data)], check=True)
