"""Runs Python programs in children of a process that has imported the third-party packages once.

    warm.py SOCKET                   serves until its stdin ends
    warm.py SOCKET PROGRAM ARGUMENTS runs PROGRAM (a script, or -m MODULE) there, as if it had been started here

A program that starts in this way has its caller's folder, environment and open streams. The server
imports nothing of this project, so the program imports the sources of its own folder, edited or not.
"""

import array
import atexit
import json
import os
import select
import signal
import socket
import sys
import traceback

MODULES = (
    "accelerate",
    "jinja2",
    "kedro.framework.cli.cli",
    "kedro.framework.cli.project",
    "kedro.framework.session.store",
    "kedro_datasets",
    "kedro_telemetry.plugin",
    "kedro_viz.integrations.kedro.hooks",
    "kedro_viz.integrations.kedro.run_hooks",
    "kedro_viz.launchers.cli.main",
    "fsspec.implementations.local",
    "matplotlib.pyplot",
    "pandas",
    "plotly.graph_objects",
    "plotly.io",
    "psutil",
    "pyarrow.parquet",
    "rich.progress",
    "schedulefree",
    "skimage.data",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.utils.data",
    "torchmetrics",
)
LENGTH = 8  # bytes that hold the length of a request


def run(address: str, program: list[str], cwd: str, environment: dict[str, str], streams: tuple[int, int, int]) -> int:
    """Runs a program and returns its exit code, negative for a signal."""
    request = json.dumps({"program": program, "cwd": cwd, "environment": environment}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", streams))]
        connection.sendmsg([len(request).to_bytes(LENGTH, "big")], rights)
        connection.sendall(request)
        told = connection.makefile().readline()
    if not told:
        raise ChildProcessError(f"the process that runs {program} has ended")
    return int(told)


def preload(*more: str) -> None:
    """Imports what most programs import, and prepares to fork."""
    import gc
    import importlib
    import inspect

    for name in (*MODULES, *more):
        importlib.import_module(name)
    inspect.stack()  # fills a table of all modules by file, which Kedro's settings would make in each child
    gc.freeze()  # a child's collections would visit, and thereby copy, all of these objects


def serve(address: str) -> None:
    """Answers requests, each in two children: one runs the program, the other waits for it and reports its end."""
    preload()
    assert not [name for name in sys.modules if name.startswith("ssdd")]
    signal.signal(signal.SIGCHLD, _collect)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}-")
        listener.listen()
        os.rename(f"{address}-", address)  # whoever finds this name can connect
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _report(connection)
            connection.close()
    os.killpg(0, signal.SIGKILL)  # with all that still runs


def _collect(*_: object) -> None:
    """Takes note of children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _report(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, ancillary, _, _ = connection.recvmsg(LENGTH, socket.CMSG_LEN(3 * array.array("i").itemsize))
    streams = array.array("i", ancillary[0][2])
    size, text = int.from_bytes(head, "big"), b""
    while len(text) < size:
        text += connection.recv(size - len(text))
    pid = os.fork()
    if pid == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _become(**json.loads(text))
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _become(program: list[str], cwd: str, environment: dict[str, str]) -> None:
    """Does what Python does with `python PROGRAM`, and ends this process."""
    import importlib
    import runpy

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    own = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    is_module = program[0] == "-m"
    sys.path[:] = [*([cwd] if is_module else []), *own, *sys.path[1:]]
    importlib.invalidate_caches()
    code: object = 1
    try:
        if is_module:
            sys.argv = program[1:]
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = program
            runpy.run_path(program[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    code = run(sys.argv[1], sys.argv[2:], os.getcwd(), dict(os.environ), (0, 1, 2))
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)
