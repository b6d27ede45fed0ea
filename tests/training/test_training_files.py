"""What training writes: states, rows, teacher targets, trackers; and what it refuses."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn

from ssdd import noise as draws
from ssdd.parameters import EmaConfig, OptimConfig, RuntimeConfig, StageParameters, TargetParameters
from ssdd.training import nonfinite
from ssdd.training.background import Background
from ssdd.training.batches import pieces_per_process
from ssdd.training.ema import Ema
from ssdd.training.history import read_rows, read_timings, write_rows, write_timings
from ssdd.training.interface import StepLosses, TrainingStep
from ssdd.training.optim import build_optimizer
from ssdd.training.resume_state import Best, TrainingState
from ssdd.training.state_store import StateStore
from ssdd.training.teacher_targets import CachedTargets, clean_targets, sound_shards, write_targets
from ssdd_decoder import Decoder, DecoderConfig
from ssdd_decoder.distill import teacher_target
from ssdd_encoder import Encoder, EncoderConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def made(steps: int = 0, kind: str = "radam_schedulefree") -> TrainingState:
    torch.manual_seed(1)
    net = Net()
    optimizer = build_optimizer([net], OptimConfig(optimizer=kind, lr=0.1))
    parameters = list(net.conv.parameters())
    state = TrainingState({"main": net}, {"main": optimizer}, parameters, Ema(EmaConfig(start_step=0)))
    advance(state, steps)
    return state


def advance(state: TrainingState, steps: int) -> None:
    net, optimizer = state.networks["main"], state.optimizers["main"]
    for _ in range(steps):
        optimizer.zero_grad()
        x = draws.sample_noise([state.progress.step], (2, 4, 4))
        net.conv(x).square().mean().backward()
        optimizer.step()
        state.progress.step += 1
        state.ema.update(state.progress.step, state.averaged)
        state.progress.history.append({"step": state.progress.step, "loss": 0.1})


def same(a: TrainingState, b: TrainingState) -> bool:
    first, second = a.tensors(), b.tensors()
    equal = first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    return equal and json.dumps(a.document()) == json.dumps(b.document())


@pytest.mark.parametrize("kind", ["radam_schedulefree", "adamw"])
def test_a_restored_state_is_the_saved_one_and_goes_on_alike(tmp_path, kind):
    store = StateStore(tmp_path, "f")
    state = made(7, kind)
    (tmp_path / "best").write_bytes(b"weights")
    from ssdd.files import sha256_file

    state.progress.best = Best(0.5, 4, "best", sha256_file(tmp_path / "best"))
    store.save(state.snapshot())
    other = made(0, kind)
    assert store.load(other, last_step=100)
    assert same(state, other)
    strides = {name: t.stride() for name, t in state.tensors().items()}
    assert {name: t.stride() for name, t in other.tensors().items()} == strides
    assert not any("frozen" in name for name in state.tensors())
    advance(state, 5)
    advance(other, 5)
    assert same(state, other)


def test_equal_states_are_equal_files_and_two_are_kept(tmp_path):
    first, second = StateStore(tmp_path / "a", "f"), StateStore(tmp_path / "b", "f")
    for steps in (1, 2, 3):
        assert first.save(made(steps).snapshot()).name == second.save(made(steps).snapshot()).name
    names = sorted(path.name[:14] for path in (tmp_path / "a").iterdir())
    assert names == ["state-00000002", "state-00000003"]


def test_states_of_others_are_not_taken(tmp_path):
    StateStore(tmp_path, "f").save(made(3).snapshot())
    assert not StateStore(tmp_path, "g").load(made(), last_step=100)
    assert not StateStore(tmp_path, "f").load(made(), last_step=2)
    assert StateStore(tmp_path, "f").load(made(), last_step=3)


def test_a_copy_of_a_state_is_not_changed_by_later_steps_and_its_memory_serves_again(tmp_path):
    state = made(3, "adamw")
    copy, wanted = state.snapshot(), {name: value.clone() for name, value in state.tensors().items()}
    advance(state, 2)
    assert copy.tensors.keys() == wanted.keys()
    assert all(torch.equal(copy.tensors[name], wanted[name]) for name in wanted)
    assert any(not torch.equal(state.tensors()[name], wanted[name]) for name in wanted)
    again = state.snapshot(copy)
    assert all(torch.equal(again.tensors[name], value) for name, value in state.tensors().items())
    assert all(again.tensors[name] is copy.tensors[name] for name in wanted)


def test_background_work_goes_on_beside_and_its_error_comes_up_once():
    background, go, done = Background(), threading.Event(), []

    def work():
        assert go.wait(60)
        done.append(1)

    def fail():
        raise OSError("the disk is full")

    background.begin(work)
    background.check()
    assert done == []
    go.set()
    background.begin(fail)
    assert done == [1]
    background.close()
    with pytest.raises(OSError, match="disk is full"):
        background.check()
    background.wait()


def flip(content: bytearray, place: int) -> bytes:
    content[place] ^= 4
    return bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b[:-1],
        lambda b: bytes(len(b)),
        lambda b: flip(bytearray(b), 3),
        lambda b: flip(bytearray(b), 200),
        lambda b: flip(bytearray(b), len(b) - 9),
    ],
)
def test_a_damaged_state_is_passed_over(tmp_path, damage):
    store = StateStore(tmp_path, "f")
    good, state = made(2), made(4)
    store.save(good.snapshot())
    newest = store.save(state.snapshot())
    newest.write_bytes(damage(newest.read_bytes()))
    other = made()
    assert store.load(other, last_step=100)
    assert same(other, good)


def test_exchanged_states_and_a_lost_best_checkpoint_are_seen(tmp_path):
    store = StateStore(tmp_path, "f")
    one, two = store.save(made(1).snapshot()), store.save(made(2).snapshot())
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)
    assert not store.load(made(), last_step=100)
    state = made(3)
    state.progress.best = Best(0.5, 3, "best.safetensors", "0" * 64)
    store.save(state.snapshot())
    assert not store.load(made(), last_step=100)


def test_leftovers_of_a_killed_save_go(tmp_path):
    ours = (".state-unnamed.safetensors.ab12.partial.safetensors", "state-unnamed.safetensors")
    for name in (*ours, ".tmpa1B2c3"):  # the last is of safetensors' own writer
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "mine.txt").write_text("stays")
    StateStore(tmp_path, "f").sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_rows_come_back(tmp_path):
    rows = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "split": "eval", "psnr": float("inf")}]
    write_rows(tmp_path / "h.csv", rows)
    assert read_rows(tmp_path / "h.csv") == rows
    assert read_rows(tmp_path / "none.csv") == []


def test_altered_timings_are_left_out(tmp_path):
    """One bit of any place: what comes back was measured."""
    rows = [{"step": step, "seconds": 0.1 * step, "images_per_second": 1e3 / step} for step in (5, 10, 15)]
    file = tmp_path / "timings.csv"
    write_timings(file, rows)
    intact = file.read_bytes()
    assert read_timings(file, 10) == rows[:2]
    for place in range(len(intact)):
        for bit in range(8):
            file.write_bytes(intact[:place] + bytes([intact[place] ^ 1 << bit]) + intact[place + 1 :])
            assert all(row in rows for row in read_timings(file, 15))
    for altered in (intact.replace(b"0.5,", b"0.6,"), intact[: len(intact) // 2], intact[:-9], b""):
        file.write_bytes(altered)
        assert read_timings(file, 15) == []


class Overflowing(TrainingStep):
    """Its loss is infinite where trained and frozen weights, batch and step all are those of the failure."""

    pretrained_children = ("pretrained",)

    def __init__(self, weight=1.0, frozen=1.0, pretrained=1.0):
        super().__init__()
        self.net, self.frozen, self.pretrained = (nn.Linear(2, 1, bias=False) for _ in range(3))
        for layer, value in ((self.net, weight), (self.frozen, frozen), (self.pretrained, pretrained)):
            nn.init.constant_(layer.weight, value)
        self.frozen.requires_grad_(False)
        self.pretrained.requires_grad_(False)

    def forward(self, batch, step):
        x = batch["image"]
        loss = (self.net(x) * self.frozen(x) * 10.0**step).square().mean() * self.pretrained.weight.mean()
        return StepLosses(loss, {"mse": loss})


def test_the_file_of_a_failure_fails_again(tmp_path):
    failed = Overflowing(1e5, 1e5, 3.0)
    batch = {"image": torch.full((3, 2), 1e3), "index": torch.arange(3), "path": ["a.png", "b.png", "c.png"]}
    small = batch | {"image": torch.ones(3, 2)}
    terms = {"loss": float("inf"), "mse": float("inf")}
    error = nonfinite.report("mse", 4, batch, terms, failed, tmp_path, rank=1)
    assert all(
        part in str(error) for part in ("mse is not finite", "step 4", "a.png, b.png, c.png", "nonfinite.replay")
    )
    (file,) = tmp_path.iterdir()
    assert str(file) in str(error)
    assert not any("pretrained." in name for name in load_file(file))
    assert nonfinite.first_bad(nonfinite.replay(file, Overflowing())) == "mse"
    # none of the weights, frozen or not, the batch and the step alone does it
    others = {
        "net": (Overflowing(frozen=1e5), batch, 4),
        "frozen": (Overflowing(1e5), batch, 4),
        "batch": (failed, small, 4),
        "step": (failed, batch, 0),
    }
    for name, (network, seen, step) in others.items():
        (tmp_path / name).mkdir()
        nonfinite.report("mse", step, seen, terms, network, tmp_path / name)
        (other,) = (tmp_path / name).iterdir()
        again = Overflowing(pretrained=2.0)
        found = nonfinite.replay(other, again)
        assert again.pretrained.weight.mean() == 2
        network.pretrained = again.pretrained
        assert found["loss"] == found["mse"] == network(seen, step).total.item() < float("inf")


def test_a_failure_that_cannot_be_written_is_told_all_the_same(tmp_path):
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    error = nonfinite.report("mse", 4, {"image": torch.ones(1, 2)}, {"mse": float("nan")}, Overflowing(), no_folder)
    assert "mse is not finite (nan) in step 4 (rank 0)" in str(error)
    assert "could not be written" in str(error)


def test_a_failure_is_computed_in_its_precision_on_its_device(tmp_path):
    step, batch = Overflowing(1 / 3), {"image": torch.full((3, 2), 1 / 7), "path": []}
    exact = step(batch, 0).total
    exact.backward()
    norm = step.net.weight.grad.norm().item()
    found = {}
    for precision in ("no", "bf16"):
        about = {"config": {"precision": precision}}
        nonfinite.report("mse", 0, batch, {}, step, tmp_path, about=about)
        found[precision] = nonfinite.replay(tmp_path / "failure-step-00000000-rank-0.safetensors", Overflowing())
    exact = exact.item()
    assert found["no"] == {"loss": exact, "mse": exact, "gradient_norm": pytest.approx(norm)}
    assert found["bf16"]["mse"] != exact
    assert found["bf16"]["mse"] == pytest.approx(exact, rel=0.03)


def test_a_failure_is_not_computed_with_other_networks_or_without_its_device(tmp_path, monkeypatch):
    nonfinite.report("mse", 0, {"image": torch.ones(1, 2)}, {}, Overflowing(), tmp_path)
    (file,) = tmp_path.iterdir()
    other = Overflowing()
    other.extra = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"network\.extra.*build the step from the job that failed"):
        nonfinite.replay(file, other)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(nonfinite.json, "loads", lambda text: {"device": "cuda"})
    with pytest.raises(ValueError, match=r"expected a CUDA device.*device='cpu'"):
        nonfinite.replay(file, Overflowing())


def test_guard_names_the_part_before_the_sum():
    assert nonfinite.first_bad({"loss": float("nan"), "kl": float("inf"), "mse": 1.0}) == "kl"
    assert nonfinite.first_bad({"gradient_norm": float("nan"), "loss": float("nan"), "mse": 1.0}) == "loss"
    assert nonfinite.first_bad({"loss": 1.0}) is None


# -- teacher targets ---------------------------------------------------------------------------------------------


class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, key):
        epoch, index = key
        image = draws.sample_noise([draws.sample_seed(0, "image", epoch, index)], (3, 8, 8))[0].clamp(-1, 1)
        return {"image": image, "index": index, "path": f"{index}.png"}


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    shape = DecoderConfig(
        base_channels=8,
        multipliers=(1, 2),
        transformer_blocks=1,
        heads=2,
        resnets_per_level=1,
        norm_groups=4,
        downscale=2,
    )
    encoder = Encoder(EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, norm_groups=4))
    decoder = Decoder(shape)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    return encoder.requires_grad_(False), decoder.requires_grad_(False)


SHARDS = TargetParameters(teacher_steps=3, shard_size=4, dtype="float32")


def write(networks, folder: Path, fingerprint: str = "t", **changes) -> None:
    arguments = {"seed": 9, "batch_size": 3, "progress": False} | changes
    write_targets(*networks, Images(), SHARDS, folder, fingerprint, **arguments)


def test_cached_targets_are_the_teachers(networks, tmp_path):
    write(networks, tmp_path)
    cached = pickle.loads(pickle.dumps(CachedTargets(Images(), tmp_path, "t")))
    assert len(cached) == 10
    for index in (0, 5, 9):
        found = cached[17, index]
        image = Images()[0, index]["image"]
        assert torch.equal(found["image"], image)
        noise = draws.sample_noise([draws.sample_seed(9, "noise", 0, index)], (3, 8, 8))
        assert torch.equal(found["noise"], noise[0])
        z = networks[0](image[None]).mode()
        torch.testing.assert_close(found["z"], z[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found["target"], teacher_target(networks[1], z, noise, 3)[0], atol=1e-4, rtol=1e-3)


def test_targets_without_images_open_none_and_still_name_them(networks, tmp_path):
    class Unopened(Images):
        def __getitem__(self, key):
            raise AssertionError(f"image {key} was opened")

        def path(self, index):
            return f"{index}.png"

    write(networks, tmp_path)
    whole = CachedTargets(Images(), tmp_path, "t")[0, 6]
    found = CachedTargets(Unopened(), tmp_path, "t", with_images=False)[3, 6]
    assert (found["index"], found["path"]) == (6, "6.png")
    assert found.keys() == whole.keys() - {"image"}
    assert all(torch.equal(found[name], whole[name]) for name in ("z", "target", "noise"))


def test_few_shards_stay_open_and_every_order_reads_the_same(networks, tmp_path, monkeypatch):
    monkeypatch.setattr("ssdd.training.teacher_targets.OPEN_SHARDS", 2)
    write(networks, tmp_path)
    fresh = [CachedTargets(Images(), tmp_path, "t")[0, index] for index in range(10)]
    fresh = [{k: v.clone() for k, v in row.items() if torch.is_tensor(v)} for row in fresh]  # a view keeps its map
    cached = CachedTargets(Images(), tmp_path, "t")
    for index in (0, 9, 5, 1, 4, 8, 0, 3, 7, 9, 2, 6):
        found = cached[0, index]
        assert len(cached._files) <= 2
        assert index // 4 in cached._files
        for name in ("z", "target", "noise"):
            assert torch.equal(found[name], fresh[index][name])
    del found
    mapped = Path("/proc/self/maps").read_text()
    assert sum(str(path) in mapped for path in tmp_path.iterdir()) <= 2


def test_finished_shards_are_kept_and_damaged_ones_made_again(networks, tmp_path):
    write(networks, tmp_path)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    assert len(before) == 3
    _, second, third = sorted(before)
    third_path = tmp_path / third
    third_path.write_bytes(third_path.read_bytes()[:-3])
    (tmp_path / ".targets-unnamed-000000004.safetensors.x.partial.safetensors").write_bytes(b"x")
    (tmp_path / second).unlink()
    with pytest.raises(ValueError, match="make the targets again"):
        CachedTargets(Images(), tmp_path, "t")
    clean_targets(tmp_path, "t", 10, SHARDS)
    write(networks, tmp_path, rank=0, processes=2)
    write(networks, tmp_path, rank=1, processes=2)
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    assert {name: content for name, (_, content) in after.items()} == {n: c for n, (_, c) in before.items()}
    first = sorted(before)[0]
    assert after[first][0] == before[first][0]


def test_targets_of_another_fingerprint_are_not_used(networks, tmp_path):
    write(networks, tmp_path)
    with pytest.raises(ValueError, match="got 0 in a row"):
        CachedTargets(Images(), tmp_path, "u")
    clean_targets(tmp_path, "u", 10, SHARDS)
    assert sound_shards(tmp_path, "t") == {}


# -- settings ------------------------------------------------------------------------------------------------------


def test_settings_are_typed_frozen_and_published():
    config = StageParameters()
    assert (config.optim.clip, config.ema.decay, config.ema.start_step, config.batch_size) == (0.1, 0.999, 50_000, 256)
    assert dataclasses.astuple(dataclasses.make_dataclass("W", ["a", "b", "c"])(0.5, 0.25, 1e-6)) == (
        config.loss.perceptual_weight,
        config.loss.repa,
        config.loss.kl,
    )
    assert not config.gan.enabled
    with pytest.raises(ValidationError, match="lrr"):
        StageParameters.model_validate({"optim": {"lrr": 1}})
    with pytest.raises(ValidationError):
        config.epochs = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="greater than 0"):
        StageParameters.model_validate({"optim": {"lr": -1}})
    with pytest.raises(ValueError, match="multiple of processes x accumulation = 2 x 3 = 6, got 256"):
        pieces_per_process(StageParameters(accumulation=3), 2)


def test_trackers_show_scalars_and_images(run_toy, options, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    codes, output = run_toy(tmp_path, options(runtime={"trackers": ["tensorboard"], "progress": True}))
    assert codes == [0], output
    assert "40/40" in output
    events = [EventAccumulator(str(path.parent)) for path in tmp_path.rglob("events.*")]
    for event in events:
        event.Reload()
    scalars = {tag for event in events for tag in event.Tags()["scalars"]}
    assert {"train/loss", "train/mse", "eval/error"} <= scalars
    assert any("samples" in tag for event in events for tag in event.Tags()["images"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_trackers_on_request(name, toy_script, options, tmp_path):
    """With the packages themselves, offline, where they are installed."""
    pytest.importorskip(name)
    run = options(config={"epochs": 3}, runtime={"trackers": [name]})
    offline = {
        "WANDB_MODE": "offline",
        "MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    subprocess.run(
        [sys.executable, str(toy_script)],
        input=json.dumps([str(tmp_path / "run"), str(tmp_path / "log"), [run]]) + "\n",
        text=True,
        env=os.environ | offline | {"OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    assert (tmp_path / "log.codes").read_text() == "[0]", (tmp_path / "log").read_text()
    assert list(tmp_path.rglob("samples*.png"))
    if name == "wandb":
        assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    else:
        (losses,) = (tmp_path / "mlruns").rglob("metrics/train/loss")
        assert [line.split()[2] for line in losses.read_text().splitlines()] == ["5", "10"]
        rows = [r for r in read_rows(tmp_path / "run" / "history.csv") if r["split"] == "train"]
        assert [float(line.split()[1]) for line in losses.read_text().splitlines()] == [r["loss"] for r in rows]
        (rate,) = (tmp_path / "mlruns").rglob("params/optim.lr")
        assert rate.read_text() == "0.02"


def test_images_reach_each_tracker_in_its_own_way(monkeypatch):
    from ssdd.training.trackers import log_images

    calls = []

    def tracker(name):
        take = lambda images, **options: calls.append((name, images, options))  # noqa: E731
        return SimpleNamespace(name=name, log_images=take)

    def log_image(array, key, step):
        calls.append(("mlflow", {key: array}, {"step": step}))

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(log_image=log_image))
    accelerator = SimpleNamespace(
        trackers=[tracker(name) for name in ("tensorboard", "wandb", "mlflow")], is_main_process=True
    )
    images = torch.tensor([-1.0, 0.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    log_images(accelerator, "samples", images, step=7)
    assert [name for name, _, _ in calls] == ["tensorboard", "wandb", "mlflow", "mlflow"]
    assert all(options["step"] == 7 for _, _, options in calls)
    board, wandb, *mlflow = (given for _, given, _ in calls)
    assert board["samples"].shape == (2, 4, 5, 3)
    assert [picture.shape for picture in wandb["samples"]] == [(4, 5, 3)] * 2
    assert [list(given) for given in mlflow] == [["samples_0"], ["samples_1"]]
    for picture in (board["samples"][0], wandb["samples"][1], mlflow[0]["samples_0"]):
        assert picture.dtype == "uint8"
        assert picture[0, 0].tolist() == [0, 128, 255]


def test_missing_trackers_and_devices_are_named(monkeypatch):
    from ssdd.training.trackers import check_trackers

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install wandb"):
        check_trackers(RuntimeConfig(trackers=("wandb",)).trackers)
