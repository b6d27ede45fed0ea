"""The other ranks of a launcher join the nodes tagged `distributed`, and nothing else."""

import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from ssdd.deadlines import Deadline, ends_on_sigterm, exits_with
from ssdd.lineage import ranks
from ssdd.training.interrupts import Interrupted

MEETING = """
    import os
    import torch
    import torch.distributed as distributed
    from toy.notes import note
    from ssdd.lineage import current_fingerprint

    def meet(features):
        distributed.init_process_group("gloo")
        total = torch.tensor([1.0 + int(os.environ["RANK"])])
        distributed.all_reduce(total)
        distributed.barrier()
        distributed.destroy_process_group()
        note(f"rank {os.environ['RANK']} sum {total.item()} mean {features['mean']} {current_fingerprint()}")
"""
JOINT = """folder = state_folder()
    if "RANK" in os.environ:
        from toy.meeting import meet
        meet(features)
        if os.environ["RANK"] != "0":
            return folder, folder, []
"""


@pytest.mark.slow
def test_other_ranks_join_the_training_nodes_only(project):
    project.write("pipelines/toy/meeting.py", MEETING)
    project.edit("training.py", "folder = state_folder()\n", JOINT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kedro", "run"]

    def together(*arguments):
        project.log.write_text("")
        result = subprocess.run(
            [sys.executable, *command, *arguments],
            cwd=project.folder,
            env=project.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return result.returncode, result.stdout + result.stderr, project.notes()

    status, output, notes = together()
    assert status == 0, output
    met = [note for note in notes if note.startswith("rank")]
    assert [note.split(" mean ")[0] for note in sorted(met)] == ["rank 0 sum 3.0", "rank 1 sum 3.0"]
    assert len({note.split(" mean ")[1] for note in met}) == 1  # same inputs, same fingerprint
    for name in ("clean", "train from 0", "draw", "tell"):
        assert notes.count(name) == 1
    assert output.count("done: training.train") == 1
    assert together_by_srun(project) == [0, 0]
    assert project.notes() == []
    assert project.run() == []  # one process or many: the same lineage
    assert together("--params", "train.lrr=1")[0] != 0
    project.edit("meeting.py", 'note(f"rank', 'raise RuntimeError("no luck")  # note(f"rank')
    status, output, _ = together()
    assert status != 0
    assert "no luck" in output


def together_by_srun(project, *arguments):
    """Runs two ranks with the variables of srun; returns their exit codes."""
    project.log.write_text("")
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "kedro", "run", *arguments],
            cwd=project.folder,
            env=project.environment | slurm | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
        )
        for rank in "01"
    ]
    return [rank.wait(120) for rank in both]


@pytest.mark.slow
def test_ranks_of_srun_meet_and_leave_with_the_requeue_code(project):
    project.write("pipelines/toy/meeting.py", MEETING)
    project.edit("meeting.py", "    note(f", "    os.kill(os.getpid(), 10)\n    note(f")
    project.edit("training.py", "folder = state_folder()\n", JOINT)
    project.edit("parameters.py", "pause: float", "pause: float\n    requeue_code: int | None = None")
    assert together_by_srun(project, "--params", "runtime.requeue_code=75") == [75, 75]
    assert project.notes() == ["clean", "measure"] + ["measure"] * (project.notes().count("measure") - 1)
    assert not (project.data / "weights.safetensors").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_of_the_cluster_ends_with_the_requeue_code(number):
    with pytest.raises(SystemExit) as stop, exits_with(75), ends_on_sigterm():
        os.kill(os.getpid(), number)
    assert stop.value.code == 75
    saved = Interrupted(number, 5)
    with pytest.raises(SystemExit) as stop, exits_with(75):
        raise saved
    assert (stop.value.code, str(stop.value)) == (75, str(saved))
    with pytest.raises(SystemExit) as stop, exits_with(None):
        raise Interrupted(number, 5)
    assert stop.value.code == 128 + number
    with pytest.raises(KeyboardInterrupt), exits_with(None), ends_on_sigterm():
        os.kill(os.getpid(), number)


def test_a_process_that_misses_its_deadline_leaves_with_the_requeue_code_too():
    with exits_with(75):
        assert [Deadline.code(number, 130) for number in (15, 10, 2)] == [75, 75, 130]
    assert Deadline.code(signal.SIGTERM, 130) == 130


def test_ctrl_c_and_errors_keep_their_codes():
    with pytest.raises(SystemExit) as stop, exits_with(75):
        raise Interrupted(signal.SIGINT, 5)
    assert stop.value.code == 130
    with pytest.raises(SystemExit) as stop, exits_with(75):
        raise SystemExit(1)
    assert stop.value.code == 1


def test_ranks_without_an_address_are_refused(project, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(ValueError, match="torchrun -m kedro run"):
        project.run()


def test_ranks_that_never_come_are_told(monkeypatch):
    monkeypatch.setattr(ranks, "_ARRIVAL", timedelta(seconds=1))
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29761"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="expected 2 ranks to meet at localhost:29761"):
        ranks.Announcements()
