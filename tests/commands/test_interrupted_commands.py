"""Ctrl-C in the middle of each command that writes: in the network, and before a file has its content or its name.

The main thread waits in Python there, or is in one native call that takes far longer than a command may take to end.
"""

import itertools
import json
import os
import signal
import subprocess
import sys

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

# Starts each command in a child of its own, which says that it has come to the moment asked for, and stays there.
DRIVER = '''
import itertools, json, os, sys, threading, time

import torch
import ssdd.data, ssdd.imaging.encode_decode, ssdd.imaging.latent_files
import ssdd.imaging.picture_files, ssdd.evaluation.latent_statistics
from ssdd.commands.group import cli
from ssdd_decoder import Decoder
from ssdd_encoder import Encoder


def stay():
    if case["native"]:
        matrix = torch.randn(6000, 6000, dtype=torch.float64)
        threading.Timer(0.5, tell).start()
        torch.linalg.svd(matrix)  # minutes
    tell()
    time.sleep(600)


def tell():
    print("now", os.getpid(), file=control, flush=True)


def stay_in_the_network():
    """In the middle of the second batch."""
    second = []

    def watch(owner, name):
        original, calls = getattr(owner, name), itertools.count()

        def watched(*arguments, **options):
            second.extend([True] if next(calls) else [])
            return original(*arguments, **options)

        setattr(owner, name, watched)

    watch(Decoder, "decode")
    if case["arguments"][0] in ("encode", "z-stats"):
        watch(Encoder, "forward")
    convolve, calls = torch.nn.Conv2d.forward, itertools.count()

    def forward(*arguments):
        if second and next(calls) == 3:
            stay()
        return convolve(*arguments)

    torch.nn.Conv2d.forward = forward


def stay_at_a_file(event, nth):
    """When a file is about to get its content ("open") or its name ("os.rename")."""
    calls = itertools.count(1)

    def hook(happened, arguments):
        if happened == event and ".partial" in str(arguments[0]) and (event != "open" or "w" in (arguments[1] or "")):
            if next(calls) == nth:
                stay()

    sys.addaudithook(hook)


def run():
    with open(case["log"], "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    stay_in_the_network() if case["moment"] == "network" else stay_at_a_file(case["moment"], case["nth"])
    try:
        cli(case["arguments"], prog_name="ssdd")
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)


torch.set_num_threads(1)
control = os.fdopen(os.dup(1), "w")
for line in sys.stdin:
    case = json.loads(line)
    child = os.fork()
    if not child:
        try:
            run()
        finally:
            os._exit(99)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=control, flush=True)
'''


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Runs a command up to a moment, sends it SIGINT, and returns its status and all that it said."""
    log = tmp_path_factory.mktemp("log") / "log"
    process = subprocess.Popen([sys.executable, "-c", DRIVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(moment, nth, *arguments, native=False, number=signal.SIGINT):
        case = {"moment": moment, "nth": nth, "log": str(log), "arguments": [str(part) for part in arguments]}
        case["native"] = native
        process.stdin.write(json.dumps(case) + "\n")
        process.stdin.flush()
        word, pid = process.stdout.readline().split()
        assert word == "now", f"it ended with status {pid} before the moment came\n{log.read_text()}"
        os.kill(int(pid), number)
        word, status = process.stdout.readline().split()
        assert word == "ended"
        return int(status), log.read_text()

    yield call
    process.stdin.close()
    process.wait(60)


@pytest.fixture(scope="module")
def latents(checkpoint, tmp_path_factory):
    """Latents of three images, two of them of one size."""
    from click.testing import CliRunner

    from ssdd.commands.group import cli

    folder = tmp_path_factory.mktemp("latents")
    for number, size in enumerate([(20, 16), (20, 16), (70, 90)]):
        Image.new("RGB", size, (9 * number, 50, 90)).save(folder / f"{number}.png")
    out = folder / "z.safetensors"
    done = CliRunner(catch_exceptions=False).invoke(
        cli, ["encode", str(folder), "-o", str(out), "--model", str(checkpoint)]
    )
    assert done.exit_code == 0, done.output
    return out


MOMENTS = ["network", "open", "os.rename"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("command", ["decode", "reconstruct"])
def test_of_many_files_each_is_whole_or_as_before(interrupted, latents, checkpoint, tmp_path, command, moment):
    out = tmp_path / "out"
    out.mkdir()
    for number in range(3):
        (out / f"{number}.png").write_bytes(b"before")
    source = latents if command == "decode" else latents.parent
    options = ["-o", out, "--model", checkpoint, "--batch-size", 1, "--steps", 2]
    status, said = interrupted(moment, 2, command, source, *options)
    assert status == 130
    assert said.count("Interrupted: no file is half-written") == 1
    assert "Traceback" not in said
    assert sorted(file.name for file in out.iterdir()) == ["0.png", "1.png", "2.png"]  # nothing temporary
    new = [file for file in out.iterdir() if file.read_bytes() != b"before"]
    assert len(new) == 1
    with Image.open(new[0]) as written, Image.open(latents.parent / new[0].name) as image:
        written.load()
        assert written.size == image.size


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("command", ["encode", "z-stats"])
def test_the_one_file_is_as_before(interrupted, latents, checkpoint, tmp_path, command, moment):
    out = tmp_path / "result"
    out.write_bytes(b"before")
    more = ["--im-size", 16] if command == "z-stats" else []
    options = ["-o", out, "--model", checkpoint, "--batch-size", 1, *more]
    status, said = interrupted(moment, 1, command, latents.parent, *options)
    assert status == 130
    assert said.count("Interrupted: no file is half-written") == 1
    assert "Traceback" not in said
    assert [file.name for file in tmp_path.iterdir()] == ["result"]
    assert out.read_bytes() == b"before"


COMMANDS = ["encode", "decode", "reconstruct", "z-stats"]


@pytest.mark.parametrize(
    ("command", "moment", "number"),
    [*itertools.product(COMMANDS, MOMENTS, [signal.SIGTERM]), ("reconstruct", "network", signal.SIGINT)],
)
def test_a_native_call_of_minutes_does_not_hold_a_command(
    interrupted, latents, checkpoint, tmp_path, command, moment, number
):
    out = tmp_path / "out"
    folder = command in ("decode", "reconstruct")
    if not folder:
        out.write_bytes(b"before")
    source = latents if command == "decode" else latents.parent
    more = ["--im-size", 16] if command == "z-stats" else []
    options = ["-o", out, "--model", checkpoint, "--batch-size", 1, *more]
    status, said = interrupted(moment, 2 if folder else 1, command, source, *options, native=True, number=number)
    assert status == 130
    assert "Interrupted in the middle of a long computation: no file is half-written" in said
    assert "Traceback" not in said
    left = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*"))
    if not folder:
        assert left == ["out"]
        assert out.read_bytes() == b"before"
    else:
        assert len(left) == 2  # the folder, and one picture
        with Image.open(tmp_path / left[1]) as written:
            written.load()
