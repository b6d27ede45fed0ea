"""The loop in this very process: what is clipped, what the bar and the timings say."""

import io
import math
import re
from types import SimpleNamespace

import pytest
import rich
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ssdd import noise as draws
from ssdd.evaluation.periodic import Evaluation
from ssdd.parameters import GanConfig, OptimConfig, RuntimeConfig, StageParameters
from ssdd.progress import Display, TrainingBar, bar
from ssdd.training.batches import run_batches
from ssdd.training.history import read_rows
from ssdd.training.interface import AdversaryStep, StepLosses, TrainingStep
from ssdd.training.loop import train
from ssdd.training.nonfinite import NotFiniteError, replay

RUNTIME = RuntimeConfig(device="cpu", workers=0, trackers=(), progress=False)


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, key):
        epoch, index = key
        return {
            "image": draws.sample_noise([draws.sample_seed(0, "x", epoch, index)], (4,))[0],
            "index": index,
            "path": f"{index}",
        }


class Discriminator(AdversaryStep):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def active(self, step):
        return True

    def forward(self, seen):
        return (self.net(seen["fake"]) - 3).square().mean()


class Step(TrainingStep):
    exported = ("net",)

    def __init__(self, forward=lambda step: None):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 4)
        self.called = forward
        object.__setattr__(self, "adversary", Discriminator())

    def forward(self, batch, step):
        self.called(step)
        made = self.net(batch["image"])
        return StepLosses((made - 2).square().mean(), for_adversary={"fake": made.detach()})


def run(folder, step, evaluate=None, export=lambda path: path.write_bytes(b""), **changes):
    stage = StageParameters(
        **{"epochs": 4, "batch_size": 4, "precision": "no", "eval_every": 2, "best_metric": "error"} | changes
    )
    return train(step, Images(), stage, RUNTIME, folder, "f", export=export, evaluate=evaluate)


@pytest.mark.parametrize("kind", ["radam_schedulefree", "adamw"])
def test_gradients_are_clipped_before_the_optimiser_sees_them(tmp_path, kind):
    seen: dict[int, list[float]] = {}

    def note(optimizer, args, kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norm = math.sqrt(sum(g.double().square().sum().item() for g in gradients))
        seen.setdefault(id(optimizer), []).append(norm)

    def norms(clip):
        seen.clear()
        optim = OptimConfig(optimizer=kind, lr=0.02, clip=clip)
        hook = register_optimizer_step_pre_hook(note)
        try:
            result = run(tmp_path / str(clip), Step(), optim=optim, gan=GanConfig(enabled=True, lr=0.02), log_every=1)
        finally:
            hook.remove()
        whole = [row["gradient_norm"] for row in read_rows(result.history)]
        main, discriminator = seen.values()
        assert len(main) == len(discriminator) == len(whole) == 12
        return main, discriminator, whole

    main, discriminator, whole = norms(1e6)
    assert main == pytest.approx(whole, rel=1e-5)
    middle = sorted(whole)[6]
    clipped, other, whole = norms(middle)
    assert max(whole) > middle * 1.01
    assert min(whole) < middle * 0.999
    assert clipped == pytest.approx([min(norm, middle) for norm in whole], rel=1e-5)
    assert max(discriminator) > middle * 1.01
    assert max(other) == pytest.approx(middle, rel=1e-5)


def late(batches, wait):
    """The same batches, for each of which one has to wait."""

    def stream(*arguments):
        for batch in batches(*arguments):
            wait()
            yield batch

    return stream


def test_speed_counts_steps_and_neither_evaluations_nor_files(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)

    def wait(seconds):
        clock.now += seconds

    def evaluate(accelerator):
        wait(1000)
        return Evaluation(metrics={"error": 1.0})

    def export(path):
        wait(100)
        path.write_bytes(b"")

    said = []
    monkeypatch.setattr("ssdd.training.loop.time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(TrainingBar, "advance", lambda bar, loss, speed, waiting: said.append((speed, waiting)))
    monkeypatch.setattr("ssdd.training.loop.run_batches", late(run_batches, lambda: wait(0.5)))
    result = run(tmp_path, Step(lambda step: wait(1.5)), evaluate, export, log_every=2)
    assert said == [(2.0, 0.25)] * 12  # 4 images in 2 seconds
    rows = read_rows(result.timings)
    assert [row["data_seconds"] for row in rows] == [1.0] * 6
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert all((row["seconds"], row["images_per_second"]) == (4.0, 2.0) for row in rows)


def test_bar_tells_loss_speed_steps_and_time_left(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    console = Console(width=120, force_terminal=True, record=True, get_time=lambda: clock.now)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    with TrainingBar("distilling", 1000, 100) as bar:
        for _ in range(5):
            clock.now += 40.0  # slower than what rich looks at by itself
            bar.advance(0.12345, 6.78)
    line = console.export_text().splitlines()[-1]
    for part in ("distilling", "105/1000", "loss 0.1235", "6.8 images/s", "9:56:40"):  # 895 x 40 seconds
        assert part in line, line


def in_a_file(monkeypatch):
    """A console that writes to a file, with its clock."""
    clock = SimpleNamespace(now=100.0)
    console = Console(file=io.StringIO(), get_time=lambda: clock.now)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    return clock, console.file


def test_without_a_terminal_a_line_tells_everything_every_half_minute(monkeypatch):
    clock, file = in_a_file(monkeypatch)
    with TrainingBar("distilling", 1000, 100, per_epoch=250) as bar:
        for number in range(160):
            clock.now += 10.0
            bar.advance(0.25 + number, 6.78)
    lines = file.getvalue().splitlines()
    assert len(lines) == 53 + 1  # one in 30 seconds, and one at the end
    place = r"\d\d:\d\d:\d\d distilling: step 103/1000 \(10\.3 %\), epoch 1/4, "
    figures = r"loss 2\.2500, 6\.8 images/s, 2:29:30 left, peak memory \d+\.\d\d GB"  # 897 x 10 seconds
    assert re.fullmatch(place + figures, lines[0]), lines[0]
    assert "step 259/1000 (25.9 %), epoch 2/4, loss 158.2500" in lines[-2]
    assert "step 260/1000 (26.0 %), epoch 2/4, loss 159.2500, 6.8 images/s, done in 0:26:40" in lines[-1]


def test_lines_in_the_interval_of_the_parameters(monkeypatch):
    clock, file = in_a_file(monkeypatch)
    runtime = RuntimeConfig(progress="lines", progress_seconds=4)
    with bar("images", 20, runtime.display) as advance:
        for _ in range(6):
            clock.now += 2.0
            advance(3)
        advance(3)  # of another rank, beyond the end
    said = [line.partition(" ")[2].rpartition(", peak")[0] for line in file.getvalue().splitlines()]
    assert said == [
        "images: 6/20 (30.0 %), 1.5 images/s, 0:00:10 left",
        "images: 12/20 (60.0 %), 1.5 images/s, 0:00:06 left",
        "images: 18/20 (90.0 %), 1.5 images/s, 0:00:02 left",
        "images: 20/20 (100.0 %), 1.7 images/s, done in 0:00:12",
    ]


@pytest.mark.parametrize(("seconds", "speed"), [(4, "0.2 rounds/s"), (40, "1.5 rounds/min"), (4000, "0.9 rounds/h")])
def test_a_slow_speed_is_told_per_minute_or_hour(monkeypatch, seconds, speed):
    clock, file = in_a_file(monkeypatch)
    with bar("decoding", 1, RuntimeConfig(progress="lines", progress_seconds=1).display, "rounds") as advance:
        clock.now += seconds
        advance(1)
    assert f" {speed}, done in" in file.getvalue().splitlines()[-1]


def test_an_error_ends_the_lines_without_the_word_done(monkeypatch):
    _, file = in_a_file(monkeypatch)
    with pytest.raises(KeyError), bar("images", 2):
        raise KeyError
    assert file.getvalue() == ""


@pytest.mark.parametrize(("terminal", "mode"), [(True, "bar"), (False, "lines")])
def test_a_terminal_decides_unless_the_parameter_does(terminal, mode):
    console = Console(force_terminal=terminal, file=io.StringIO())
    assert Display().on(console) == mode
    assert [RuntimeConfig(progress=p).display.on(console) for p in ("bar", "lines", "none")] == ["bar", "lines", "none"]
    shown = [RuntimeConfig(progress=written).progress for written in (True, "true", False, "False", "lines")]
    assert shown == ["auto", "auto", "none", "none", "lines"]
    with pytest.raises(ValidationError, match="progress"):
        RuntimeConfig(progress="some")


def test_bar_of_other_processes_says_nothing(monkeypatch):
    console = Console(width=120, force_terminal=True, record=True)
    monkeypatch.setattr(rich, "get_console", lambda: console)
    with TrainingBar("distilling", 10, show=False) as bar:
        bar.advance(1.0, 1.0)
    assert console.export_text() == ""


def test_a_failure_of_the_discriminator_is_computed_again(tmp_path):
    step = Step()

    def spoil(number):
        if number == 5:
            step.adversary.net.weight.data.fill_(1e30)

    step.called = spoil
    with pytest.raises(NotFiniteError, match="discriminator is not finite"):
        run(tmp_path, step, gan=GanConfig(enabled=True), accumulation=2)
    (file,) = tmp_path.glob("failure-*")
    assert replay(file, Step()) == {"discriminator": math.inf}
