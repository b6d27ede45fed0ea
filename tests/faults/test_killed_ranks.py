"""Either of two processes is killed at five moments of a distillation: the run ends at once and resumes exactly."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

SETTINGS = "distill.epochs=12,distill.eval_every=4,runtime.save_every=4,runtime.progress=false"
PAIR = f"{SETTINGS},runtime.processes=2"
ONLY = "--nodes=distill.distill_teacher"
LAST = 96  # steps
MOMENTS = 5  # of each rank: as soon as it is there, then at later and later steps in turn, to about step 86


def workers(runs):
    """The workers that run, however young, in the order of their ranks."""
    found = []
    for pid in sorted(runs.processes()):
        try:
            command = (Path("/proc") / str(pid) / "cmdline").read_bytes()
        except OSError:
            continue
        if b"multiprocessing.spawn" in command:
            found.append(pid)
    return found


def steps_done(folder):
    """Steps of the newest state of the distillation."""
    states = (folder / "state" / "distill.distill_teacher").glob("state-*-*.safetensors")
    return max((int(re.findall(r"state-(\d+)", path.name)[0]) for path in states), default=0)


def kill_rank(runs, attempt, rank, folder, step):
    """Kills the process of that rank once this step is saved; returns the sockets on which the run listened."""
    while True:
        assert attempt.is_running(), attempt.said
        found = workers(runs)
        if len(found) > rank and steps_done(folder) >= step:
            listened = runs.listening()
            os.kill(found[rank], signal.SIGKILL)
            return listened
        time.sleep(0.02)


def prepare(runs, name):
    """A run with everything before the distillation."""
    folder = runs.prepare(name)
    code, said = runs.run(name, "--nodes=distill.cache_teacher_targets", settings=SETTINGS)
    assert code == 0, said
    return folder


@pytest.fixture(scope="module")
def undisturbed_pair(runs):
    prepare(runs, "pair")
    code, said = runs.run("pair", ONLY, settings=PAIR)
    assert code == 0, said
    return runs.contents("pair")


def test_either_rank_killed_at_five_moments(runs, undisturbed_pair, chance, tally):
    folder = prepare(runs, "pair-killed")
    for number in range(2 * MOMENTS):
        step = number * LAST // (2 * MOMENTS) if number > 1 else 0
        attempt = runs.start("pair-killed", ONLY, settings=PAIR)
        listened = kill_rank(runs, attempt, number % 2, folder, step)
        tally("killed ranks", tried=1)
        assert listened  # where the ranks meet
        began = time.monotonic()
        code = attempt.wait()
        assert time.monotonic() - began < 30
        assert code not in (0, None), attempt.said
        assert f"worker of rank {number % 2} was killed by SIGKILL" in attempt.said, attempt.said
        assert runs.wait_for_processes(5) == []
        assert not runs.still_open(listened)
    code, said = runs.run("pair-killed", ONLY, settings=PAIR)
    assert code == 0, said
    assert "goes on after step" in said
    assert runs.contents("pair-killed") == undisturbed_pair
    assert runs.leftovers("pair-killed") == []
    tally("killed ranks", survived=2 * MOMENTS)
