"""Jobs on the embedded photographs: every kind trains, hands on what it made, and resumes exactly."""

import copy
import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssdd import SSDD
from ssdd.data import EvalTransform, ImageDataset, TrainTransform, index_images, open_source
from ssdd.files import sha256_file
from ssdd.parameters import (
    EmaConfig,
    GanConfig,
    LossWeights,
    OptimConfig,
    RuntimeConfig,
    StageParameters,
    TargetParameters,
)
from ssdd.training import jobs, loss_terms, sealed
from ssdd.training.history import read_rows
from ssdd.training.jobs import TrainingJob, build_model, build_step, cache_targets, run_job
from ssdd.training.loop import trial_step
from ssdd.training.loss_terms import LossTerm
from ssdd.training.nonfinite import NotFiniteError, first_bad, replay
from ssdd.training.steps import DecoderStep
from ssdd_decoder import DecoderConfig
from ssdd_encoder import EncoderConfig

ENCODER = EncoderConfig(base_channels=8, multipliers=(1, 1), resnets_per_level=1, patch_size=2, norm_groups=4)
DECODER = DecoderConfig(
    base_channels=16,
    multipliers=(1, 2),
    transformer_blocks=1,
    heads=2,
    resnets_per_level=1,
    norm_groups=8,
    patch_size=2,
    downscale=4,
)
STAGE = StageParameters(
    epochs=2,
    batch_size=4,
    precision="no",
    eval_every=1,
    log_every=2,
    best_metric="psnr",
    best_is="highest",
    eval_metrics=("psnr",),
    eval_steps=2,
    optim=OptimConfig(lr=0.01),
    ema=EmaConfig(start_step=2),
    loss=LossWeights(perceptual="msgrad", repa=0),
)


@pytest.fixture(scope="module")
def images():
    source = open_source("sample", train_images=16, validation_images=4, canvases=1)
    index = index_images(source, progress=False).index
    train = ImageDataset(index, source, TrainTransform(im_size=16), split="train")
    return train, ImageDataset(index, source, EvalTransform(im_size=16), split="validation")


@pytest.fixture
def job(images, tmp_path):
    def make(kind: str, name: str, **changes) -> TrainingJob:
        runtime = RuntimeConfig(device="cpu", workers=0, save_every=2, trackers=(), progress=False)
        common = {
            "images": images[0],
            "validation": images[1],
            "stage": STAGE,
            "runtime": runtime,
            "folder": tmp_path / name,
            "fingerprint": "f",
        }
        return TrainingJob(kind=kind, **common | changes)

    return make


def weights(path) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in load_file(path).items()}  # the file is overwritten below


def part_equal(a, b, part: str) -> bool:
    names = [name for name in a if name.startswith(part)]
    return all(torch.equal(a[name], b[name]) for name in names)


def test_every_kind_trains_and_hands_on_what_it_made(job, tmp_path):
    first = run_job(job("autoencoder", "ae", encoder=ENCODER, decoder=DECODER))
    start = build_model(job("autoencoder", "ae", encoder=ENCODER, decoder=DECODER)).state_dict()
    assert not part_equal(weights(first.last), start, "encoder.")
    SSDD.from_pretrained(first.best)

    second = run_job(job("decoder", "dec", encoder_checkpoint=first.last, decoder=DECODER))
    assert part_equal(weights(second.last), weights(first.last), "encoder.")
    assert not part_equal(weights(second.last), weights(first.last), "decoder.")

    cached = job(
        "distillation",
        "cached",
        checkpoint=second.last,
        targets=TargetParameters(teacher_steps=2, cached=True, shard_size=5),
        targets_folder=tmp_path / "targets",
        targets_fingerprint="t",
        stage=STAGE.model_copy(update={"epochs": 4}),
    )
    with pytest.raises(ValueError, match="make the targets again"):
        run_job(cached)
    assert len(list(cache_targets(cached).iterdir())) == 4
    live = dataclasses.replace(cached, folder=tmp_path / "live", targets=TargetParameters(teacher_steps=2))
    for result in (run_job(cached), run_job(live)):
        losses = [row["flow_matching"] for row in read_rows(result.history) if row["split"] == "train"]
        assert max(losses) < 0.1  # the student starts from the teacher
        assert not part_equal(weights(result.last), weights(second.last), "decoder.")
        assert part_equal(weights(result.last), weights(second.last), "encoder.")


class Unopened(ImageDataset):
    """Images that cannot be opened."""

    def __getitem__(self, key):
        raise ValueError("the image was opened")


def test_cached_distillation_opens_images_only_for_a_loss_that_looks_at_them(job, images, tmp_path):
    start = tmp_path / "start.safetensors"
    build_model(job("autoencoder", "ae", encoder=ENCODER, decoder=DECODER)).save_pretrained(start)
    targets = TargetParameters(teacher_steps=2, cached=True, shard_size=5)
    places = {"targets_folder": tmp_path / "targets", "targets_fingerprint": "t"}
    whole = job("distillation", "whole", checkpoint=start, targets=targets, **places)
    cache_targets(whole)
    unopened = copy.copy(images[0])
    unopened.__class__ = Unopened
    blind = dataclasses.replace(whole, images=unopened, folder=tmp_path / "blind")
    assert run_job(blind).history.read_bytes() == run_job(whole).history.read_bytes()
    gan = STAGE.model_copy(update={"gan": GanConfig(enabled=True, start_step=2)})
    with pytest.raises(ValueError, match="the image was opened"):
        run_job(dataclasses.replace(blind, stage=gan, folder=tmp_path / "gan"))
    result = run_job(dataclasses.replace(whole, stage=gan, folder=tmp_path / "gan"))
    assert [row["discriminator"] > 0 for row in read_rows(result.history) if row["split"] == "train"][1:] == [True] * 3


def test_each_shard_is_hashed_once(job, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(sealed, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    start = tmp_path / "start.safetensors"
    build_model(job("autoencoder", "ae", encoder=ENCODER, decoder=DECODER)).save_pretrained(start)
    cached = job(
        "distillation",
        "cached",
        checkpoint=start,
        targets=TargetParameters(teacher_steps=1, cached=True, shard_size=5),
        targets_folder=tmp_path / "targets",
        targets_fingerprint="t",
    )
    for _ in range(2):  # when they are written, and when they are found there
        hashed.clear()
        cache_targets(cached)
        assert len(hashed) == len(list((tmp_path / "targets").iterdir())) == 4


def test_a_new_term_is_one_function(job, monkeypatch):
    def brightness_term(weights, decoder, networks):
        loss = lambda estimate: (estimate.image.mean() - estimate.target.mean()).square()  # noqa: E731
        return LossTerm(name="brightness", weight=10.0, loss=loss)

    stage = STAGE.model_copy(update={"epochs": 1, "log_every": 1, "loss": STAGE.loss.model_copy(update={"kl": 0})})
    monkeypatch.setattr(loss_terms, "TERMS", (*loss_terms.TERMS, brightness_term))
    found = read_rows(run_job(job("autoencoder", "new", encoder=ENCODER, decoder=DECODER, stage=stage)).history)
    row = found[0]
    assert row["brightness"] > 0
    total = row["flow_matching"] + 0.5 * row["msgrad"] + 10 * row["brightness"]
    assert row["loss"] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("stop", [1, 5, 6])
def test_a_job_that_broke_off_resumes_exactly(job, monkeypatch, stop):
    gan = STAGE.model_copy(update={"gan": GanConfig(enabled=True, start_step=3), "accumulation": 2})
    arguments = {"encoder": ENCODER, "decoder": DECODER, "stage": gan}
    whole = run_job(job("autoencoder", "whole", **arguments))
    finish = DecoderStep.finish

    def broken(self, estimate):
        if estimate.step == stop:
            raise RuntimeError("power cut")
        return finish(self, estimate)

    broken_off = job("autoencoder", "broken", **arguments)
    with monkeypatch.context() as patch:
        patch.setattr(DecoderStep, "finish", broken)
        with pytest.raises(RuntimeError, match="power cut"):
            run_job(broken_off)
    again = run_job(broken_off)
    assert again.history.read_bytes() == whole.history.read_bytes()
    a, b = weights(again.last), weights(whole.last)
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_finished_job_trains_no_more_and_mends_its_checkpoint(job, monkeypatch):
    done = job("autoencoder", "done", encoder=ENCODER, decoder=DECODER)
    first = run_job(done)
    before = weights(first.last)
    first.last.write_bytes(b"damaged")
    monkeypatch.setattr(DecoderStep, "finish", None)
    again = run_job(done)
    assert again.step == first.step == 8
    assert all(torch.equal(value, before[name]) for name, value in weights(again.last).items())


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "timings.csv"}


@pytest.mark.parametrize("chosen", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_measured_number_of_threads_gives_the_bits_of_the_fixed_one(job, two_threads, monkeypatch, chosen):
    at_build, tried = [], []

    def build(job):
        at_build.append(torch.get_num_threads())
        return build_model(job)

    def choose(step, title):
        tried.extend((step(), step()))  # real steps
        torch.set_num_threads(chosen)

    # A discriminator, whose buffers move in every step, and a shortcut, which starts from a threaded decomposition.
    stage = STAGE.model_copy(update={"gan": GanConfig(enabled=True, start_step=0), "batch_size": 8})
    decoder = dataclasses.replace(DECODER, prediction="sample", shortcut=True)
    fixed = job("autoencoder", "fixed", encoder=ENCODER, decoder=decoder, stage=stage, validation=None)
    auto = fixed.runtime.model_copy(update={"threads": "auto"})
    measured = dataclasses.replace(fixed, runtime=auto, folder=fixed.folder.with_name("measured"))
    torch.set_num_threads(chosen)
    run_job(fixed)

    torch.set_num_threads(2)
    monkeypatch.setattr(jobs, "choose_threads", choose)
    monkeypatch.setattr(jobs, "build_model", build)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = stage.model_copy(update={"epochs": 1})
    assert run_job(dataclasses.replace(measured, stage=first)).step == 2
    assert run_job(measured).step == 4  # goes on from there
    assert torch.equal(torch.get_rng_state(), before)
    assert len(tried) == 4
    assert at_build == [2, chosen, 2, chosen]
    assert torch.get_num_threads() == 2
    assert files(measured.folder) == files(fixed.folder)


def test_steps_that_are_timed_are_those_of_training_and_move_no_weight(job):
    stage = STAGE.model_copy(update={"gan": GanConfig(enabled=True, start_step=0), "log_every": 1})
    one = job("autoencoder", "one", encoder=ENCODER, decoder=DECODER, stage=stage)
    row = losses_of(run_job(one))[0]
    step = build_step(one, build_model(one))
    before = {name: value.clone() for name, value in step.named_parameters()}
    folder = one.folder.with_name("trial")
    trial = trial_step(step, one.images, stage, one.runtime, folder)
    figures, _ = trial()
    assert {name: figures[name] for name in row} == row
    for _ in range(8):  # the optimiser's first five leave the weights as they are
        trial()
    assert all(torch.equal(value, before[name]) for name, value in step.named_parameters())
    assert not folder.exists() or not list(folder.iterdir())


def losses_of(result) -> list[dict[str, float]]:
    names = ("loss", "flow_matching", "msgrad", "kl", "gan", "discriminator", "gradient_norm")
    rows = [row for row in read_rows(result.history) if row["split"] == "train"]
    return [{name: row[name] for name in names if name in row} for row in rows]


def test_bf16_is_near_float32_and_the_global_random_state_stays(job):
    stage = STAGE.model_copy(update={"log_every": 1})
    arguments = {"encoder": ENCODER, "decoder": DECODER}
    exact = losses_of(run_job(job("autoencoder", "float32", stage=stage, **arguments)))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    result = run_job(job("autoencoder", "bf16", stage=stage.model_copy(update={"precision": "bf16"}), **arguments))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.dtype == torch.float32 for value in weights(result.last).values())
    rounded = losses_of(result)
    assert rounded != exact
    for one, other in zip(rounded, exact, strict=True):
        assert one == pytest.approx(other, rel=0.02)


@pytest.mark.slow
def test_compiled_networks_give_the_losses_of_plain_ones(job, monkeypatch):
    """Traced as always, but run by PyTorch itself: its code generator takes a minute and has tests of its own."""
    compiled = []
    plain = torch.compile

    def trace(function, **options):
        compiled.append(function)
        return plain(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", trace)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: setattr(module, "forward", trace(module.forward)))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    stage = STAGE.model_copy(update={"log_every": 1, "epochs": 1})
    first = {"encoder": ENCODER, "decoder": DECODER}
    start = run_job(job("autoencoder", "start", stage=stage, **first)).last
    second = {"checkpoint": start, "targets": TargetParameters(teacher_steps=2)}
    for kind, arguments, networks in (("autoencoder", first, 2), ("distillation", second, 3)):
        found = []
        for flag in (False, True):
            compiled.clear()
            flagged = stage.model_copy(update={"compile": flag})
            found.append(losses_of(run_job(job(kind, f"{kind}-{flag}", stage=flagged, **arguments))))
            assert len(compiled) == networks * flag
        for one, other in zip(*found, strict=True):
            assert one == pytest.approx(other, rel=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 4
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
def test_two_processes_train_as_one(job):
    """Encoder, decoder and discriminator train in two processes as in one."""
    stage = STAGE.model_copy(update={"log_every": 1, "gan": GanConfig(enabled=True, start_step=2)})
    found = []
    for processes in (1, 2):
        runtime = RuntimeConfig(device="cpu", processes=processes, workers=0, trackers=(), progress=False)
        arguments = {"encoder": ENCODER, "decoder": DECODER, "stage": stage, "runtime": runtime}
        found.append(losses_of(run_job(job("autoencoder", f"{processes}", **arguments))))
    assert len(found[0]) == 8
    assert found[0][-1]["discriminator"] > 0
    for one, other in zip(*found, strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_what_does_not_fit_is_said_before_anything_runs(job, tmp_path):
    with pytest.raises(ValueError, match="checkpoint to distil"):
        job("distillation", "a")
    with pytest.raises(ValueError, match="encoder and decoder"):
        job("decoder", "a", decoder=DECODER)
    two = RuntimeConfig(device="cpu", processes=2, workers=0, trackers=(), progress=False)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"no checkpoint")
    for networks, said in (
        ({"checkpoint": tmp_path / "none.safetensors"}, "there is no file"),
        ({"checkpoint": damaged}, "is not a whole safetensors file"),
        ({"encoder": ENCODER, "decoder": DECODER, "checkpoint": damaged}, "is not a whole safetensors file"),
        ({"encoder": "f8c4", "decoder": "MM"}, "MM"),
        ({"encoder": "f9c4", "decoder": "M"}, "f9c4"),
    ):
        with pytest.raises(ValueError, match=said):  # a worker's error would be a WorkerFailed
            run_job(job("decoder", "d", runtime=two, **networks))
    fp16 = STAGE.model_copy(update={"precision": "fp16"})
    with pytest.raises(ValueError, match="expected a GPU for precision"):
        run_job(job("autoencoder", "c", encoder=ENCODER, decoder=DECODER, stage=fp16))


class NotANumber(ImageDataset):
    """Images of NaN."""

    def __getitem__(self, key):
        example = super().__getitem__(key)
        return {**example, "image": example["image"] * float("nan")}


def test_a_failed_job_fails_again_from_its_file(job, tmp_path):
    source = open_source("sample", train_images=8, validation_images=4, canvases=1)
    train = NotANumber(index_images(source, progress=False).index, source, TrainTransform(im_size=16), split="train")
    failing = job("autoencoder", "failing", images=train, encoder=ENCODER, decoder=DECODER)
    with pytest.raises(NotFiniteError, match="is not finite") as failure:
        run_job(failing)
    (file,) = (tmp_path / "failing").glob("failure-*")
    losses = replay(file, build_step(failing, build_model(failing)))
    assert str(failure.value).startswith(f"{first_bad(losses)} is not finite")


def test_a_failed_distillation_needs_nothing_but_its_file_and_shapes(job, tmp_path, monkeypatch):
    """Frozen encoder, teacher and student come from the file: the job that replays starts from other weights."""
    stage = STAGE.model_copy(update={"epochs": 1})
    made = {}
    for seed in (0, 1):
        seeded = stage.model_copy(update={"seed": seed})
        first = job("autoencoder", f"model-{seed}", encoder=ENCODER, decoder=DECODER, stage=seeded)
        made[seed] = tmp_path / f"{seed}.safetensors"
        build_model(first).save_pretrained(made[seed])
    finish = DecoderStep.finish

    def broken(self, estimate):
        losses = finish(self, estimate)
        return dataclasses.replace(losses, total=losses.total * (float("nan") if estimate.step == 2 else 1))

    failing = job("distillation", "f", checkpoint=made[0], stage=stage, targets=TargetParameters(teacher_steps=2))
    with monkeypatch.context() as patch:
        patch.setattr(DecoderStep, "finish", broken)
        with pytest.raises(NotFiniteError, match="loss is not finite"):
            run_job(failing)
    (file,) = (tmp_path / "f").glob("failure-*")
    with safe_open(file, framework="pt") as opened:
        terms = json.loads(opened.metadata()["failure"])["terms"]
    other = dataclasses.replace(failing, checkpoint=made[1])
    found = replay(file, build_step(other, build_model(other)))
    for name in ("flow_matching", "msgrad"):
        assert found[name] == pytest.approx(terms[name], rel=1e-3)
