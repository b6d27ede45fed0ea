"""The launcher of this process: torchrun, `accelerate launch`, srun, mpirun or mpiexec; the rank that it was given.

Each launcher has environment variables of its own. `adopt` translates them into those of torchrun, which PyTorch,
accelerate and the rest of the application read.
"""

import os
import re
import zlib
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

PORTS = range(15_000, 30_000)  # below those that Linux hands out by itself
PORT = 29_500  # PyTorch's own, where no launcher numbers its jobs


@dataclass(frozen=True)
class Variables:
    """The environment variables of one launcher; those of the machine are missing with some."""

    launcher: str
    rank: str
    size: str
    local_rank: str
    local_size: str = ""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that one launcher started."""

    variables: Variables
    rank: int
    size: int

    def __str__(self) -> str:
        return f"{self.variables.rank}={self.rank} of {self.variables.size}={self.size}"


PLAIN = Variables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
SLURM = Variables("srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
STEP_SIZE = "SLURM_STEP_NUM_TASKS"
MPI = (
    Variables(
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    Variables("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
JOBS = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


def adopt(environment: MutableMapping[str, str] = os.environ) -> None:
    """Gives this process the variables of torchrun, if another launcher started it together with others.

    A process that is alone keeps its environment. Called again, it changes nothing.

    Args:
        environment: of this process.

    Raises:
        ValueError: variables contradict each other, or the machine of rank 0 is not known.
    """
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun, also below `accelerate launch`
        return
    ranks = find_ranks(environment)
    if ranks is None:
        return
    place = {
        "RANK": str(ranks.rank),
        "WORLD_SIZE": str(ranks.size),
        # Where no launcher says it, the number in the whole group: it selects a GPU modulo their number.
        "LOCAL_RANK": environment.get(ranks.variables.local_rank, str(ranks.rank)),
        "MASTER_ADDR": _address(ranks, environment),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(_port(ranks, environment)),
    }
    environment.update(place)


def find_ranks(environment: Mapping[str, str]) -> Ranks | None:
    """Returns the place of this process among the others; None if it is alone.

    Args:
        environment: of this process.

    Raises:
        ValueError: variables of one launcher, or of two, contradict each other.
    """
    found = [ranks for variables in (PLAIN, *MPI) if (ranks := _read(environment, variables)) is not None]
    slurm = _read_slurm(environment)
    # Processes of mpirun inherit the variables of the Slurm task that started mpirun: they say nothing about them.
    if slurm is not None and not any(ranks.variables in MPI for ranks in found):
        found.append(slurm)
    for other in found[1:]:
        if (other.rank, other.size) != (found[0].rank, found[0].size):
            raise ValueError(
                f"expected one rank for this process, got {found[0]} and {other}: "
                f"unset the variables of the launcher that did not start it"
            )
    return found[0] if found else None


def first_host(hosts: str) -> str:
    """Returns the first machine of a list as Slurm writes it: `gpu[07-09,12],login` begins with `gpu07`."""
    first = re.split(r",(?![^\[]*\])", hosts)[0]
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)


def _read(environment: Mapping[str, str], variables: Variables) -> Ranks | None:
    """Returns what one launcher's variables say; None if there are none, or only one process."""
    names = (variables.rank, variables.size)
    texts = [environment.get(name) for name in names]
    if texts == [None, None] or texts == [None, "1"]:
        return None
    said = ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True) if text is not None)
    if not all(text is not None and text.isdecimal() for text in texts):
        raise ValueError(f"expected two numbers in {names[0]} and {names[1]}, got {said}: set both or neither")
    rank, size = (int(text or 0) for text in texts)
    if rank >= size:
        raise ValueError(f"expected {names[0]} to be less than {names[1]}, got {said}: ranks count from 0")
    return Ranks(variables, rank, size) if size > 1 else None


def _read_slurm(environment: Mapping[str, str]) -> Ranks | None:
    """Returns what srun says; None in a batch script or shell, which have the variables of the whole job."""
    if STEP_SIZE in environment:
        # In an interactive shell the job may have many tasks, but its step has one.
        return _read(environment, Variables(SLURM.launcher, SLURM.rank, STEP_SIZE, SLURM.local_rank))
    if SLURM.rank not in environment or environment.get("ENVIRONMENT") == "BATCH":
        return None
    return _read(environment, SLURM)


def _address(ranks: Ranks, environment: Mapping[str, str]) -> str:
    """Returns the machine of rank 0."""
    if address := environment.get("MASTER_ADDR"):
        return address
    if environment.get(ranks.variables.local_size) == str(ranks.size):
        return "127.0.0.1"
    # Below mpirun, the list of a step has only the machines on which Slurm started mpirun's own helpers.
    step = ("SLURM_STEP_NODELIST",) if ranks.variables.rank == SLURM.rank else ()
    for name in (*step, "SLURM_NODELIST", "SLURM_JOB_NODELIST"):
        if hosts := environment.get(name):
            return first_host(hosts)
    raise ValueError(
        f"expected the name of rank 0's machine in MASTER_ADDR, got {ranks} without it: "
        "set it (mpirun -x MASTER_ADDR=<machine>), or use `torchrun -m kedro run`"
    )


def _port(ranks: Ranks, environment: Mapping[str, str]) -> int:
    """Returns a port that all processes of a job agree on, and other jobs on the machine hardly share."""
    if ranks.variables.rank == SLURM.rank and (job := environment.get("SLURM_JOB_ID")):
        # with the step: a job may run two at a time
        job = f"{job}.{environment.get('SLURM_STEP_ID', '')}"
    else:
        job = next((environment[name] for name in JOBS if environment.get(name)), None)
    return PORTS[zlib.crc32(job.encode()) % len(PORTS)] if job else PORT
