"""Ranks are recognised from what each launcher sets, and two of them train to equal weights."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ssdd.launchers import PORT, PORTS, adopt, find_ranks, first_host

RANKS = '''
"""Trains the toy as one rank of its launcher: ranks.py FOLDER OPTIONS; or, of PAIRS, as two at a time."""
import hashlib, json, os, sys
from pathlib import Path

import toy
from safetensors.torch import save, save_file

from ssdd.launchers import adopt
from ssdd.parameters import RuntimeConfig, StageParameters
from ssdd.training.loop import train


def run(folder, options):
    adopt()
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        options.pop("kill_at", None)
    step = toy.ToyStep(options)
    export = lambda path: save_file({k: v.contiguous() for k, v in step.net.state_dict().items()}, path)
    config, runtime = (StageParameters.model_validate(options["config"]), RuntimeConfig(**options["runtime"]))
    train(step, toy.ToyData(), config, runtime, Path(folder), "f", export=export)
    weights = save({k: v.contiguous() for k, v in step.net.state_dict().items()})
    Path(f"{folder}.{os.environ['RANK']}").write_text(hashlib.sha256(weights).hexdigest())


def forked(variables, folder, options):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for name in [name for name in os.environ if name.startswith(("SLURM", "OMPI", "PMI"))]:
                del os.environ[name]
            os.environ.update(variables)
            run(folder, options)
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            os._exit(code)
    return pid


if __name__ == "__main__":
    if len(sys.argv) == 3:
        run(sys.argv[1], json.loads(sys.argv[2]))
    else:
        for pair, folder, options in json.loads(sys.argv[1]):
            pids = [forked(variables, folder, options) for variables in pair]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
            Path(f"{folder}.codes").write_text(json.dumps(codes))
'''

# As the launcher sets them for two processes of one machine.
SRUN = {"SLURM_JOB_ID": "41", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
SRUN |= {"SLURM_NODELIST": "localhost", "SLURM_STEP_NODELIST": "localhost", "ENVIRONMENT": "BATCH"}
LAUNCHERS = {
    "srun": [SRUN | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in "01"],
    "mpirun": [
        {
            "OMPI_COMM_WORLD_RANK": rank,
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": rank,
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "PMIX_NAMESPACE": "prterun-machine-4242@1",
        }
        for rank in "01"
    ],
    "mpiexec": [
        {"PMI_RANK": rank, "PMI_SIZE": "2", "MPI_LOCALRANKID": rank, "MPI_LOCALNRANKS": "2", "MASTER_PORT": "29743"}
        for rank in "01"
    ],
    "by hand": [{"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29744"} for rank in "01"],
}


@pytest.fixture(scope="module")
def script(toy_script) -> Path:
    path = toy_script.parent / "ranks.py"
    path.write_text(textwrap.dedent(RANKS))
    return path


def start(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def trained(script, options, tmp_path_factory) -> Path:
    """One training for each launcher, below its name; `requeued` stops at a signal."""
    folder = tmp_path_factory.mktemp("launched")
    pairs = [(pair, str(folder / name), options()) for name, pair in LAUNCHERS.items()]
    usr1 = options(usr1_at=[1, 22], runtime={"save_every": 1000})
    pairs += [(LAUNCHERS["srun"], str(folder / "stopped"), usr1)]
    done = start(script, json.dumps(pairs))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_ranks_of_each_launcher_end_with_equal_weights(trained, results, launcher):
    assert (trained / f"{launcher}.codes").read_text() == "[0, 0]"
    weights = [(trained / f"{launcher}.{rank}").read_text() for rank in (0, 1)]
    assert weights[0] == weights[1]
    assert results(trained / launcher) == results(trained / "srun")


@pytest.mark.slow
def test_a_rank_killed_under_torchrun_ends_with_the_undisturbed_weights(script, options, results, trained, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = start(*torchrun, script, tmp_path / "run", json.dumps(options(kill_at=[1, 23])))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SIGKILL" in done.stderr or "exitcode: -9" in done.stderr
    assert results(tmp_path / "run") == results(trained / "srun")


@pytest.mark.slow
def test_two_processes_of_accelerate_end_with_equal_weights(script, options, results, trained, tmp_path):
    accelerate = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
    accelerate += ["--mixed_precision=no", "--dynamo_backend=no"]
    done = start(*accelerate, script, tmp_path / "run", json.dumps(options()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len({(tmp_path / f"run.{rank}").read_text() for rank in (0, 1)}) == 1
    assert results(tmp_path / "run") == results(trained / "srun")


@pytest.mark.slow
def test_sigusr1_at_one_rank_saves_and_stops_all(trained):
    assert (trained / "stopped.codes").read_text() == "[138, 138]"
    assert [path.name[:14] for path in (trained / "stopped").glob("state-*")] == ["state-00000023"]


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node7", "node7"),
        ("gpu[07-09,12],login", "gpu07"),
        ("a3-[0004,0010-0012]", "a3-0004"),
        ("rack[2-3]-node[0-7].site", "rack2-node0.site"),
        ("login,gpu[1-2]", "login"),
    ],
)
def test_first_machine_of_slurms_list(hosts, first):
    assert first_host(hosts) == first


def adopted(**variables: str) -> dict[str, str]:
    environment = dict(variables)
    adopt(environment)
    return environment


def test_srun_on_several_machines():
    found = adopted(**SRUN | {"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "16"})
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("9", "16", "1")
    wide = SRUN | {"SLURM_PROCID": "1", "SLURM_NODELIST": "n[1-4]", "SLURM_STEP_NODELIST": "n[3-4]"}
    assert adopted(**wide)["MASTER_ADDR"] == "n3"
    assert adopted(**wide)["MASTER_PORT"] == adopted(**wide | {"SLURM_PROCID": "0"})["MASTER_PORT"]
    assert adopted(**wide)["MASTER_PORT"] != adopted(**wide | {"SLURM_STEP_ID": "1"})["MASTER_PORT"]
    assert int(adopted(**wide)["MASTER_PORT"]) in PORTS
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5000"}
    assert adopted(**wide, **given).items() >= given.items()


@pytest.mark.parametrize(
    "alone",
    [
        {},
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        # a shell that srun started in a job of four tasks; a batch script; a shell of salloc
        SRUN | {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "ENVIRONMENT": "BATCH"},
        {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7", "SLURM_NODELIST": "n[1-4]"},
    ],
)
def test_one_process_stays_alone(alone):
    assert find_ranks(alone) is None
    assert adopted(**alone) == alone


def test_torchrun_and_mpirun_within_slurm_count_their_own_ranks():
    task = SRUN | {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    torchrun = task | {"RANK": "3", "WORLD_SIZE": "8", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert adopted(**torchrun) == torchrun
    mpi = task | {"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "SLURM_NODELIST": "n[1-2]"}
    mpi |= {"SLURM_STEP_NODELIST": "n2"}
    found = adopted(**mpi)
    assert (found["RANK"], found["MASTER_ADDR"]) == ("5", "n1")
    adopt(found)  # a second time, with RANK from the first
    assert found["RANK"] == "5"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "0"}, "got RANK=0: set both or neither"),
        ({"WORLD_SIZE": "2"}, "got WORLD_SIZE=2: set both or neither"),
        ({"PMI_RANK": "one", "PMI_SIZE": "2"}, "got PMI_RANK=one, PMI_SIZE=2"),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK to be less than"),
        (SRUN | {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "2"}, "SLURM_PROCID to be less than SLURM_STEP_NUM"),
        (SRUN | {"SLURM_PROCID": "1", "RANK": "0", "WORLD_SIZE": "2"}, "got RANK=0 of WORLD_SIZE=2 and SLURM_PROCID=1"),
        ({"RANK": "0", "WORLD_SIZE": "2", "PMI_RANK": "1", "PMI_SIZE": "2"}, "PMI_RANK=1 of PMI_SIZE=2"),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, "rank 0's machine in MASTER_ADDR"),
    ],
)
def test_variables_that_contradict_each_other_are_refused(variables, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        adopted(**variables)


def test_a_port_without_a_job_is_pytorchs():
    variables = {"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"}
    assert adopted(**variables)["MASTER_PORT"] == str(PORT)
