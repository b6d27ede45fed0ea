"""A toy task that the engine can train in a second: a small convolution that learns to denoise."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

TOY = '''
"""Toy run of the training engine, in its own process: toy.py FOLDER JSON."""
import json, os, signal, sys, time
from pathlib import Path

import psutil
import torch
import torch._dynamo  # what the first optimiser and the first Accelerator import anyway
import torch.distributed.fsdp
from safetensors.torch import save_file
from torch import nn

from ssdd import noise as draws
from ssdd.data import index_images
from ssdd.data.image_sets import open_images, training_images
from ssdd.evaluation.periodic import Evaluation
from ssdd.parameters import DataParameters, RuntimeConfig, StageParameters
from ssdd.processes import launch
from ssdd.training import loop
from ssdd.training.interface import StepLosses, TrainingStep
from ssdd.training.jobs import TrainingJob, run_job
from ssdd.training.loop import train


class ToyData(torch.utils.data.Dataset):
    """24 images that are pure functions of (epoch, index)."""

    def __len__(self):
        return 24

    def __getitem__(self, key):
        epoch, index = key
        image = draws.sample_noise([draws.sample_seed(0, "image", epoch, index)], (3, 8, 8))[0].clamp(-1, 1)
        return {"image": image, "index": index, "path": f"image-{index}.png"}


class ToyStep(TrainingStep):
    exported = ("net",)

    def __init__(self, options):
        super().__init__()
        torch.manual_seed(0)
        first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.net = nn.Sequential(first, nn.GroupNorm(2, 8), nn.SiLU(), last)
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.options = options

    def forward(self, batch, step):
        x = batch["image"]
        noise = draws.sample_noise(draws.sample_seeds(1, "noise", step, batch["index"].tolist()), x.shape[1:])
        if self.options.get("memory"):
            with open(self.options["memory"], "a") as file:
                print(psutil.Process().memory_info().rss, file=file)
        mse = (self.net(x + noise) - x).square().mean()
        edge = (self.net(x + noise) - x).diff(dim=3).abs().mean()
        rank = int(os.environ.get("RANK", 0))
        if self.options.get("nan_at") == step:
            edge = edge * float("nan")
        faults = [self.options.get(name) for name in ("raise_at", "kill_at", "nan_at", "term_at")]
        if self.options.get("stamp") and ([rank, step] in faults or step in faults):
            Path(self.options["stamp"]).write_text(str(time.time()))
        if self.options.get("raise_at") == [rank, step]:
            raise RuntimeError("the toy broke on purpose")
        if self.options.get("kill_at") == [rank, step] or self.options.get("kill_all_at") == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.get("usr1_at") == [rank, step]:
            os.kill(os.getpid(), signal.SIGUSR1)
        if self.options.get("term_at") == step:
            os.kill(os.getppid() if self.options.get("term_parent") else os.getpid(), signal.SIGTERM)
        return StepLosses(mse + 0.1 * edge, {"mse": mse, "edge": edge})


def run_images(folder, options):
    """Trains small networks on the images of a source."""
    data, stage = DataParameters(**options["data"]), StageParameters.model_validate(options["config"])
    made = loop._step

    def step(networks, ledger, batch, interrupts):
        if ledger.state.progress.step == options.get("kill_all_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        return made(networks, ledger, batch, interrupts)

    loop._step = step
    images = training_images(index_images(open_images(data), progress=False, held_out=0.1).index, data, stage)
    return run_job(TrainingJob(kind="autoencoder", encoder="debug", decoder="debug", images=images, stage=stage,
                               runtime=RuntimeConfig.model_validate(options["runtime"]), folder=Path(folder),
                               fingerprint="f"))


def run(folder, options):
    os.environ.update(options.get("environment", {}))
    if "data" in options:
        return run_images(folder, options)
    step = ToyStep(options)

    def export(path):
        save_file({k: v.contiguous() for k, v in step.net.state_dict().items()}, path)

    def evaluate(accelerator):
        if options.get("kill_in_evaluation") == state["evaluations"]:
            os.kill(os.getpid(), signal.SIGKILL)
        state["evaluations"] += 1
        x = torch.linspace(-1, 1, 192).view(1, 3, 8, 8)
        error = (step.net(x) - x).square().mean().item()
        return Evaluation(metrics={"error": error}, images=step.net(x))

    state = {"evaluations": 0}
    return train(step, ToyData(), StageParameters.model_validate(options["config"]),
                 RuntimeConfig.model_validate(options["runtime"]), Path(folder), options.get("fingerprint", "f"),
                 export=export, evaluate=evaluate)


def forked(folder, options):
    """Runs in a child of this process, which has imported everything once; returns its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            result = launch(run, options["runtime"].get("processes", 1), folder, options)
            print("DONE", result.step, flush=True)
            code = 0
        except SystemExit as stop:
            print(stop, flush=True)
            code = stop.code
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    for line in sys.stdin:
        folder, log, runs = json.loads(line)
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        codes = [forked(folder, options) for options in runs]
        with open(log + ".codes.partial", "w") as file:
            json.dump(codes, file)
        os.replace(log + ".codes.partial", log + ".codes")
'''


def toy_options(**changes):
    """Options of a 40-step toy run (6 images a step, 4 steps an epoch, evaluation every 3 epochs)."""
    config = {
        "epochs": 10,
        "batch_size": 6,
        "precision": "no",
        "eval_every": 3,
        "log_every": 5,
        "best_metric": "error",
        "optim": {"lr": 0.02},
        "ema": {"start_step": 10},
    }
    runtime = {"device": "cpu", "workers": 0, "save_every": 3, "trackers": [], "progress": False}
    config |= changes.pop("config", {})
    runtime |= changes.pop("runtime", {})
    return {"config": config, "runtime": runtime, **changes}


@pytest.fixture(scope="session")
def toy_script(tmp_path_factory) -> Path:
    script = tmp_path_factory.mktemp("toy") / "toy.py"
    script.write_text(textwrap.dedent(TOY))
    return script


@pytest.fixture(scope="session")
def run_toy(toy_script, tmp_path_factory):
    """Runs toy trainings one after the other on one folder: exit codes and everything printed.

    Each is a process of its own, forked from one that imported everything, which takes seconds.
    """
    logs = tmp_path_factory.mktemp("logs")
    server = subprocess.Popen(
        [sys.executable, str(toy_script)], stdin=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert server.stdin is not None
    numbers = itertools.count()

    def run(folder: Path, *options: dict, timeout: float = 300) -> tuple[list[int], str]:
        log = logs / f"{next(numbers)}.log"
        print(json.dumps([str(folder), str(log), options]), file=server.stdin, flush=True)
        codes = Path(f"{log}.codes")
        deadline = time.monotonic() + timeout
        while not codes.is_file() and server.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        output = log.read_text()
        assert codes.is_file(), output
        return json.loads(codes.read_text()), output

    yield run
    server.stdin.close()
    server.wait(10)


@pytest.fixture(scope="session")
def options():
    return toy_options


@pytest.fixture(scope="session")
def results():
    """Bytes of everything that must not depend on interruptions: last two states, checkpoints, history."""

    def read(folder: Path) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name != "timings.csv"}

    return read
