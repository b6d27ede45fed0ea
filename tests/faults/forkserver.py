"""Runs commands in children of a process that has imported everything once: forkserver.py, in a project's folder.

Requests are lines of JSON on stdin, answers lines of JSON on stdout:
    {"start": ["kedro" or script, arguments], "log": file, "fault": {...} | null, "room": bytes | null}
        -> {"pid": process}; room: of address space above what it has
    {"wait": pid} -> {"code": exit code, negative for a signal}
"""

import functools
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import traceback

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from warm import preload

MODULES = (
    "ssdd.cli",
    "ssdd.evaluation.final",
    "ssdd.settings",
    "ssdd.pipeline_registry",
    "ssdd.evaluation.reference_statistics",
    "ssdd.evaluation.latent_statistics",
    "ssdd.training.jobs",
)


class Fault:
    """Strikes at the n-th time that Python is about to do something.

    Args:
        event: one of Python's audit events on a file, e.g. `open`, `os.rename`, `os.remove`; or a function of a
            library, as `module:name`, that is about to be called.
        name: part of the file's name.
        nth: counted from 1.
        fill: instead of SIGKILL: the disk of this file gets full, to the last byte.
    """

    def __init__(self, event: str, name: str = "", nth: int = 1, fill: str | None = None) -> None:
        self.event, self.name, self.left, self.fill = event, name, nth, fill
        if ":" in event:
            self._watch(*event.split(":"))
        else:
            sys.addaudithook(self._audit)

    def _watch(self, module: str, name: str) -> None:
        *outer, last = name.split(".")
        owner = functools.reduce(getattr, outer, importlib.import_module(module))
        original = getattr(owner, last)

        @functools.wraps(original)
        def watched(*arguments: object, **options: object) -> object:
            self._count()
            return original(*arguments, **options)

        setattr(owner, last, watched)

    def _audit(self, event: str, arguments: tuple) -> None:
        if event == self.event and self.left and self.name in os.path.basename(str(arguments[0])):
            self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left:
            return
        if self.fill is None:
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            fill(self.fill)


def fill(ballast: str) -> None:
    """Lets a file grow until its disk has no byte left."""
    with open(ballast, "ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def child(arguments: list[str], log: str, fault: dict | None, room: int | None) -> None:
    """Runs one command and ends this process."""
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code: object = 1
    try:
        from kedro.framework.cli.cli import main

        if fault:
            Fault(**fault)
        if room:
            with open("/proc/self/statm") as file:
                most = int(file.read().split()[0]) * resource.getpagesize() + room
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        sys.argv = arguments
        if arguments[0] == "kedro":
            main()
        else:
            runpy.run_path(arguments[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def serve() -> None:
    """Answers requests until stdin ends."""
    preload(*MODULES)
    sys.path.pop()  # of tests
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
        else:
            pid = os.fork()
            if pid == 0:
                child(request["start"], request["log"], request["fault"], request["room"])
            answer = {"pid": pid}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
