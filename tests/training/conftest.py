"""A toy task that the engine can train in a second: a small convolution that learns to denoise."""

import sys
import textwrap
from pathlib import Path

import pytest

TOY = '''
"""Toy run of the training engine, in its own process: toy.py FOLDER JSON."""
import json, os, signal, sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from ssdd.training import keyed
from ssdd.training.config import RuntimeConfig, TrainConfig
from ssdd.training.launch import launch
from ssdd.training.loop import Evaluation, train
from ssdd.training.step import StepLosses, TrainingStep


class ToyData(torch.utils.data.Dataset):
    """24 images that are pure functions of (epoch, index)."""

    def __len__(self):
        return 24

    def __getitem__(self, key):
        epoch, index = key
        image = keyed.normal([keyed.key(0, "image", epoch, index)], (3, 8, 8))[0].clamp(-1, 1)
        return {"image": image, "index": index, "path": f"image-{index}.png"}


class ToyStep(TrainingStep):
    exported = ("net",)

    def __init__(self, options):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.options = options

    def forward(self, batch, step):
        x = batch["image"]
        noise = keyed.normal(keyed.keys(1, "noise", step, batch["index"].tolist()), x.shape[1:])
        mse = (self.net(x + noise) - x).square().mean()
        edge = (self.net(x + noise) - x).diff(dim=3).abs().mean()
        if self.options.get("nan_at") == step:
            edge = edge * float("nan")
        rank = int(os.environ.get("RANK", 0))
        if self.options.get("raise_at") == [rank, step]:
            raise RuntimeError("the toy broke on purpose")
        if self.options.get("kill_at") == [rank, step] or self.options.get("kill_all_at") == step:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.options.get("term_at") == step:
            os.kill(os.getppid() if self.options.get("term_parent") else os.getpid(), signal.SIGTERM)
        return StepLosses(mse + 0.1 * edge, {"mse": mse, "edge": edge})


def run(folder, options):
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
    return train(step, ToyData(), TrainConfig.model_validate(options["config"]),
                 RuntimeConfig.model_validate(options["runtime"]), Path(folder), options.get("fingerprint", "f"),
                 export=export, evaluate=evaluate)


if __name__ == "__main__":
    options = json.loads(sys.argv[2])
    result = launch(run, options["runtime"].get("processes", 1), sys.argv[1], options)
    print("DONE", result.step)
'''


def toy_options(**changes):
    """Options of a 40-step toy run (6 images a step, 4 steps an epoch, evaluation every 3 epochs)."""
    config = {
        "epochs": 10, "batch_size": 6, "precision": "no", "eval_every": 3, "log_every": 5, "best_metric": "error",
        "optim": {"lr": 0.02}, "ema": {"start_step": 10},
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
