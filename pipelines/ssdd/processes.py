"""The processes of a run: one, several that are spawned here, or those of torchrun; and the device of each."""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import torch

from ssdd.deadlines import WORKERS_END, Deadline
from ssdd.files import WINDOWS
from ssdd.meeting import init_method
from ssdd.parameters import RuntimeConfig

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

P = ParamSpec("P")
T = TypeVar("T")

LOGS = "ssdd-workers"  # temporary folders of the workers' logs, named <LOGS>-<process id of the launcher>-<random>

# Calls a function of one process, given its arguments, for `launch`; None: it is called in this process.
call_alone: ContextVar[Callable[..., Any] | None] = ContextVar("call_alone", default=None)


class WorkerFailed(ChildProcessError):
    """A worker process raised or was killed; the message has its traceback."""


def launch(function: Callable[P, T], processes: int, *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in `processes` processes that form one group, and returns what rank 0 returned.

    With one process, or if RANK is set (under torchrun, whose workers all call this together), the function is called
    in this process. In all other cases, and within `ssdd.own_process`, workers are spawned: the function must be
    importable, and its arguments and result picklable. If a worker fails or is killed, all workers end, and the call
    fails with the traceback of the first one. If this process ends, the workers end too.

    Raises:
        WorkerFailed: a worker raised or was killed.
        SystemExit: this process got SIGTERM or SIGINT; the workers had time to save.
    """
    caller = call_alone.get()
    if processes == 1 and caller is not None:
        result: T = caller(function, *args, **kwargs)
        return result
    if processes == 1 or "RANK" in os.environ:
        return function(*args, **kwargs)
    # Imported here: most commands use this module only to choose a device.
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _remove_leftovers()
    with tempfile.TemporaryDirectory(prefix=f"{LOGS}-{os.getpid()}-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,  # a restart here would hide the reason of a failure; the same command resumes
            monitor_interval=0.2,
            start_method="spawn",  # CUDA does not work in a forked process
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        threads = max(torch.get_num_threads() // processes, 1)  # more threads than cores slow all workers down
        try:
            with Deadline.patience(WORKERS_END):
                results = elastic_launch(config, _work)(os.getpid(), threads, function, args, kwargs)
        except SignalException as stop:
            raise SystemExit(128 + int(stop.sigval)) from None
        except ChildFailedError as failed:
            raise WorkerFailed(_failure_message(failed)) from None
    return results[0]


def is_main() -> bool:
    """Whether this process writes: it is the only one, or it launched the others, or it is rank 0."""
    return os.environ.get("RANK", "0") == "0"


def join_group() -> tuple[int, int]:
    """Joins the group of the processes that `launch` called together, if any: (rank, processes)."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1:
        return 0, 1
    if not torch.distributed.is_initialized():
        # gloo too, where there are GPUs: `gather` and `wait_for_all` exchange objects and tensors on the CPU
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, init_method=init_method())
    return torch.distributed.get_rank(), processes


def wait_for_all() -> None:
    """Returns when every process of the group has called it."""
    if join_group()[1] > 1:
        torch.distributed.all_reduce(torch.zeros(1))


def gather(mine: T) -> list[T]:
    """Brings one object of each process to rank 0, in the order of ranks; the other ranks get an empty list."""
    rank, processes = join_group()
    if processes == 1:
        return [mine]
    everyone: list[Any] | None = [None] * processes if rank == 0 else None
    torch.distributed.gather_object(mine, everyone)
    return everyone or []


def gather_everywhere(mine: T) -> list[T]:
    """Brings one object of each process to every process, in the order of ranks."""
    _, processes = join_group()
    if processes == 1:
        return [mine]
    everyone: list[Any] = [None] * processes
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def _remove_leftovers() -> None:
    """Removes the temporary folders of launchers that were killed."""
    import psutil

    for folder in Path(tempfile.gettempdir()).glob(f"{LOGS}-*-*"):
        pid = folder.name.removeprefix(f"{LOGS}-").partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _work(parent: int, threads: int, function: Callable[..., T], args: Any, kwargs: Any) -> T:
    """Runs the function in one worker, which ends with its parent; the launcher gets the traceback of an error."""
    from torch.distributed.elastic.multiprocessing.errors import record

    # `record` writes a traceback to the file that the launcher reads. It is not a decorator of `_work`, because this
    # module would then always import it.
    result: T = record(_call)(parent, threads, function, args, kwargs)  # type: ignore[assignment]
    return result


def _call(parent: int, threads: int, function: Callable[..., T], args: Any, kwargs: Any) -> T:
    watch_parent(parent)
    torch.set_num_threads(threads)
    logging.basicConfig(level=logging.INFO if os.environ["RANK"] == "0" else logging.WARNING)
    try:
        return function(*args, **kwargs)
    finally:
        # After an error the others may be stuck in an exchange, and this call would wait for them.
        if sys.exc_info()[0] is None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _failure_message(failed: "ChildFailedError") -> str:
    """Returns which rank failed first, how, and its traceback."""
    rank, failure = failed.get_first_failure()
    message = failure.message
    if isinstance(message, dict):
        extra = message.get("extraInfo", {})
        message = extra.get("py_callstack", message.get("message", message))
    how = f"was killed by {signal.Signals(-failure.exitcode).name}" if failure.exitcode < 0 else "failed"
    return f"worker of rank {rank} {how} (exit code {failure.exitcode}):\n{message}"


def choose_device(name: str, rank: int = 0) -> torch.device:
    """Returns the device that `auto`, `cpu` or `cuda` means for a process; `auto` takes a GPU if there is one.

    Args:
        name: value of `runtime.device` or `--device`.
        rank: of the process on its machine; GPUs are dealt out in turn.

    Raises:
        ValueError: the name is `cuda` and there is no CUDA device.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("expected a CUDA device, found none: choose the device 'auto' or 'cpu'")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank % torch.cuda.device_count())


def use_threads(runtime: RuntimeConfig) -> None:
    """Limits torch to `runtime.threads` CPU threads, if that is a number; the processes of a stage then share them."""
    if isinstance(runtime.threads, int):
        torch.set_num_threads(runtime.threads)


def lives(parent: int) -> bool:
    """Whether the process that started this one still runs."""
    if not WINDOWS:
        return os.getppid() == parent
    # Windows names a process's first parent for ever, and that may be a launcher of Python in between.
    import psutil

    return psutil.pid_exists(parent)


def watch_parent(parent: int, every: float = 0.5) -> None:
    """Ends this process soon after its parent has ended, even by SIGKILL, which sends no notice to child processes.

    Args:
        parent: process id of the parent, passed on by the parent: by now this process may have another one.
        every: seconds between two checks.
    """

    def look() -> None:
        while lives(parent):
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=look, daemon=True, name="parent-watch").start()
