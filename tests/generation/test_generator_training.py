"""The job that trains a generator on shards: resume, processes, what is refused."""

import pytest
import torch
from safetensors.torch import load_file

from ssdd.generation import generator_job
from ssdd.generation.generator import Generator
from ssdd.generation.generator_job import GeneratorJob, build_generator, run_generator
from ssdd.generation.latent_manifest import read_manifest
from ssdd.generation.latent_shards import write_latents
from ssdd.generation_parameters import GeneratorParameters
from ssdd.parameters import EmaConfig, OptimConfig, RuntimeConfig
from ssdd.training.history import read_rows
from ssdd.training.interrupts import Interrupted

STAGE = GeneratorParameters(
    size="debug",
    epochs=3,
    batch_size=4,
    patch_size=1,
    precision="no",
    eval_every=1,
    log_every=1,
    flip=True,
    optim=OptimConfig(optimizer="adamw", lr=0.003, clip=1.0),
    ema=EmaConfig(decay=0.9, start_step=0),
)


@pytest.fixture
def latents(make_job, tmp_path):
    return write_latents(make_job(tmp_path / "latents"))


@pytest.fixture
def train(latents, tmp_path):
    def run(name, stage=STAGE, **runtime):
        options = {"device": "cpu", "threads": 1, "workers": 0, "save_every": 2, "trackers": (), "progress": False}
        job = GeneratorJob(
            latents=latents,
            stage=stage,
            runtime=RuntimeConfig(**{**options, **runtime}),
            folder=tmp_path / name,
            fingerprint="f",
        )
        return run_generator(job)

    return run


def test_it_learns_keeps_the_best_and_names_the_encoder(train, latents):
    longer = STAGE.model_copy(update={"epochs": 12})
    done = train("learns", longer)
    rows = read_rows(done.history)
    held_out = [row["flow_loss"] for row in rows if row["split"] == "eval"]
    assert len(held_out) == 12
    assert min(held_out) < 0.98 * held_out[0]
    assert done.best_value == pytest.approx(min(held_out))
    assert Generator.config_of(done.best) == Generator.config_of(done.last)
    from ssdd.datasets.checkpoint_dataset import read_header

    facts = read_header(done.last)[0]["latents_of"]
    assert read_manifest(latents).encoder["weights_sha256"] in facts


def test_an_interrupted_training_ends_with_the_same_bytes(train, monkeypatch):
    whole = train("whole")
    stop = {"after": 5}
    forward = generator_job.GeneratorStep.forward

    def stopping(self, batch, step):
        if step == stop["after"]:
            stop["after"] = -1
            raise Interrupted(15, step)
        return forward(self, batch, step)

    monkeypatch.setattr(generator_job.GeneratorStep, "forward", stopping)
    with pytest.raises(Interrupted):
        train("stopped")
    resumed = train("stopped")
    assert whole.last.read_bytes() == resumed.last.read_bytes()
    assert whole.best.read_bytes() == resumed.best.read_bytes()
    assert whole.history.read_text() == resumed.history.read_text()


def test_more_epochs_go_on(train):
    train("grows")
    grown = train("grows", STAGE.model_copy(update={"epochs": 4}))
    whole = train("whole", STAGE.model_copy(update={"epochs": 4}))
    assert grown.last.read_bytes() == whole.last.read_bytes()


@pytest.mark.slow
def test_two_processes_train_as_one(train):
    losses = [read_rows(train(f"of-{n}", processes=n).history)[-1]["flow_loss"] for n in (1, 2)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_weights_follow_from_the_seed_and_the_average_is_kept(train, latents):
    manifest = read_manifest(latents)
    first, second = build_generator(manifest, STAGE), build_generator(manifest, STAGE)
    other = build_generator(manifest, STAGE.model_copy(update={"seed": 1}))
    assert torch.equal(first.transformer.proj_out_2.weight, second.transformer.proj_out_2.weight)
    assert not torch.equal(first.transformer.proj_out_2.weight, other.transformer.proj_out_2.weight)
    heavy = train("heavy", STAGE.model_copy(update={"ema": EmaConfig(decay=0.9, start_step=0)}))
    none = train("none", STAGE.model_copy(update={"ema": EmaConfig(start_step=10_000)}))
    averaged, last = (load_file(done.last)["transformer.proj_out_2.weight"] for done in (heavy, none))
    assert not torch.equal(averaged, last)


def test_classes_come_from_the_latents_or_from_the_parameter(latents):
    manifest = read_manifest(latents)
    assert build_generator(manifest, STAGE).config.classes == 2
    assert build_generator(manifest, STAGE.model_copy(update={"num_classes": 0})).config.classes == 0
    assert build_generator(manifest, STAGE.model_copy(update={"num_classes": 9})).config.classes == 9
    with pytest.raises(ValueError, match="num_classes 0 or at least 2"):
        build_generator(manifest, STAGE.model_copy(update={"num_classes": 1}))


def test_an_adversary_is_refused():
    with pytest.raises(ValueError, match=r"expected gan\.enabled false"):
        GeneratorParameters(gan={"enabled": True})
