"""Either of two processes killed at five moments of a distillation: the run ends at once, whole, and goes on exactly."""

import os
import re
import signal
import time
from pathlib import Path

import pytest

SETTINGS = "distill.epochs=12,distill.eval_every=4,runtime.save_every=4,runtime.progress=false,runtime.processes=2"
LAST = 96  # steps
MOMENTS = 5  # as soon as the process is there, and after about 15, 35, 55 and 80 steps


def workers(runs):
    """Rank -> process of the workers that run, however young."""
    found = {}
    for pid in runs.processes():
        try:
            told = (Path("/proc") / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        ranks = [item.removeprefix("RANK=") for item in told if item.startswith("RANK=")]
        if ranks:
            found[int(ranks[0])] = pid
    return found


def steps_done(folder):
    """Steps of the newest state of the distillation."""
    states = (folder / "state" / "distill.distill_teacher").glob("state-*-*.safetensors")
    return max((int(re.findall(r"state-(\d+)", path.name)[0]) for path in states), default=0)


def kill_rank(runs, attempt, rank, folder, step):
    """Kills the process of that rank in the distillation once this step is saved."""
    while True:
        assert attempt.is_running(), attempt.said
        if "run: distill.distill_teacher" in attempt.said or "resume: distill.distill_teacher" in attempt.said:
            found = workers(runs)
            if rank in found and steps_done(folder) >= step:
                os.kill(found[rank], signal.SIGKILL)
                return
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed_pair(runs):
    runs.prepare("pair")
    code, said = runs.run("pair", settings=SETTINGS)
    assert code == 0, said
    return runs.contents("pair")


def test_either_rank_killed_at_five_moments(runs, undisturbed_pair, chance, tally):
    folder = runs.prepare("pair-killed")
    for number in range(2 * MOMENTS):
        step = number * LAST // (2 * MOMENTS) if number > 1 else 0
        attempt = runs.start("pair-killed", settings=SETTINGS)
        kill_rank(runs, attempt, number % 2, folder, step)
        began = time.monotonic()
        code = attempt.wait()
        assert time.monotonic() - began < 30
        assert code not in (0, None), attempt.said
        assert f"worker of rank {number % 2} was killed by SIGKILL" in attempt.said, attempt.said
        assert runs.wait_for_processes(5) == []
        tally("killed ranks", tried=1)
    code, said = runs.run("pair-killed", settings=SETTINGS)
    assert code == 0, said
    assert "goes on after step" in said
    assert runs.contents("pair-killed") == undisturbed_pair
    assert runs.leftovers("pair-killed") == []
    tally("killed ranks", survived=2 * MOMENTS)
