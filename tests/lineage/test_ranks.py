"""Under torchrun the other ranks join the nodes tagged `distributed`, and nothing else."""

import subprocess
import sys

import pytest

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
    status, output, notes = together()
    assert (status, notes) == (0, []), output
    assert project.run() == []  # one process or many: the same lineage
    assert together("--params", "train.lrr=1")[0] != 0
    project.edit("meeting.py", 'note(f"rank', 'raise RuntimeError("no luck")  # note(f"rank')
    status, output, _ = together()
    assert status != 0
    assert "no luck" in output


def test_ranks_without_torchruns_store_are_refused(project, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with pytest.raises(ValueError, match="torchrun -m kedro run"):
        project.run()
