"""Generation in a small run: one command makes samples, tables and figure, once; a new decoder leaves the latents."""

import json
import os
import shutil
import signal
import time

import pandas
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from ssdd.commands.group import cli
from ssdd.datasets import PlotlyDataset, PNGDataset, ShardsDataset, TableDataset

COMMAND = "--pipeline=generate"
LATENTS = {"latents.encode_latents", "train_generator.train_generator", "generate.draw_latents"}


def link_weights(source, target):
    """Copies a file, or makes a link to a checkpoint, which no run here writes into."""
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


@pytest.fixture(scope="module")
def own(project, finished, tmp_path_factory):
    """A copy of the finished project for this file."""
    assert finished.returncode == 0, finished.stdout
    folder = tmp_path_factory.mktemp("generated") / "project"
    shutil.copytree(project.folder, folder, copy_function=link_weights)
    return type(project)(folder, project.warm)


@pytest.fixture(scope="module")
def generated(own):
    """The nodes that ran for its samples."""
    return own.ran(COMMAND)


def test_one_command_makes_samples_tables_and_figure(own, generated):
    assert generated > LATENTS
    assert not {"train_encoder.train_encoder", "distill.distill_teacher"} & generated
    folder = own.run_folder / "samples"
    for decoder, names in {"student": ["images", "images_of_2_steps"], "teacher": ["images"]}.items():
        for name in names:
            shard = load_file(folder / decoder / f"{name}-00000.safetensors")
            assert shard["image"].shape == (6, 3, 32, 32)
            assert shard["image"].dtype == torch.uint8
            assert shard["seed"].tolist() == list(range(6))
            assert shard["label"].tolist() == [1, 1, 1, 0, 1, 1]
    assert Image.open(folder / "sheet.png").size == (2 * 32 + 2, 2 * 32 + 2)
    table = pandas.read_csv(folder / "metrics.csv")
    assert list(zip(table["images_of"], table["decoder_steps"], table["sampler_steps"], strict=True)) == [
        ("noise, decoded", 1, 0),
        ("untrained generator", 1, 3),
        ("training images, decoded", 1, 0),
        ("student", 1, 2),
        ("student", 1, 3),
        ("teacher", 2, 3),
    ]
    assert (table["frechet_random_conv"] > 0).all()
    assert table["images"].eq(5).all()  # the held-out images are photographs
    assert {"precision", "recall"} < set(table.columns)
    assert json.loads((folder / "quality_speed.json").read_text())["data"]


def test_speed_is_told_apart_and_together(own, generated):
    speed = pandas.read_csv(own.run_folder / "samples" / "speed.csv")
    assert set(zip(speed["decoder"], speed["sampler_steps"], strict=True)) == {
        (decoder, steps) for decoder in ("student", "teacher") for steps in (2, 3)
    }
    assert (speed["total_seconds"] == speed["sampling_seconds"] + speed["decoding_seconds"]).all()
    spaces = pandas.read_csv(own.run_folder / "samples" / "speed_of_spaces.csv")
    assert spaces["decoder"].tolist() == ["SSDD", "KL-VAE"]
    assert spaces["tokens"].eq(4).all()


def test_tables_pictures_and_shards_have_previews(own, generated):
    folder = own.run_folder / "samples"
    for name in ("metrics", "speed", "speed_of_spaces"):
        assert "columns" in TableDataset(filepath=str(folder / f"{name}.csv")).preview()
    assert PlotlyDataset(filepath=str(folder / "quality_speed.json")).preview()["data"]
    assert len(PNGDataset(filepath=str(folder / "sheet.png")).preview()) > 1000
    assert "images-00000.safetensors" in ShardsDataset(filepath=str(folder / "student")).preview()


def test_a_second_run_does_nothing(own, generated):
    assert own.stale(COMMAND) == {}


def test_a_new_decoder_leaves_latents_and_generator(own, generated):
    stale = own.stale(COMMAND, "--params", "distill.seed=5")
    assert not LATENTS & stale.keys()
    assert {"generate.decode_student_samples", "evaluate_samples.measure_samples"} < stale.keys()
    assert "generate.decode_teacher_samples" not in stale
    assert LATENTS - {"latents.encode_latents"} < own.stale(COMMAND, "--params", "train_generator.seed=5").keys()


def test_killed_in_training_the_same_command_ends_with_the_same_bytes(own, generated):
    models, state = own.run_folder / "models", own.run_folder / "state" / "train_generator.train_generator"
    before = (models / "generator.safetensors").read_bytes()
    (models / "generator.safetensors").unlink()
    shutil.rmtree(state)
    process = own.start("run", "--env=tiny", "--pipeline=train_generator")
    while not list(state.glob("*.safetensors")) and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    own.run("--pipeline=train_generator")
    assert (models / "generator.safetensors").read_bytes() == before
    assert own.stale(COMMAND) == {}


def test_the_command_draws_the_samples_of_the_run(own, generated, monkeypatch, tmp_path):
    monkeypatch.chdir(own.folder)
    run, out = own.run_folder.name, tmp_path / "out"
    arguments = ["--count=3", "--seed=1", "--steps=3", "--guidance=1.5", "--class=1", "--batch-size=2"]
    done = CliRunner().invoke(cli, ["generate", run, "-o", str(out), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    table = pandas.read_csv(out / "samples.csv")
    assert table["seed"].tolist() == [1, 2, 3]
    kept = load_file(own.run_folder / "samples" / "student" / "images-00000.safetensors")["image"]
    for file, seed in zip(table["file"], table["seed"], strict=True):
        pixels = torch.tensor(list(Image.open(out / file).tobytes()), dtype=torch.uint8).view(32, 32, 3)
        if seed != 3:  # which is of another class in the run
            assert (pixels.permute(2, 0, 1).int() - kept[seed].int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN"], "give --output, --save-pipeline, or both"),
        (["RUN", "--class=2", "-o", "x"], "expected classes of the generator (from 0 to 1), got [2]"),
        (["RUN", "--decoder=kl", "-o", "x"], "has no kl yet"),
        (["nowhere", "-o", "x"], "no run of that name"),
    ],
)
def test_a_mistake_is_told_in_a_line(own, generated, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(own.folder)
    arguments = [own.run_folder.name if part == "RUN" else part for part in arguments]
    arguments = [str(tmp_path / "x") if part == "x" else part for part in arguments]
    done = CliRunner().invoke(cli, ["generate", *arguments])
    assert done.exit_code != 0
    assert said in " ".join(done.output.split())


def test_a_decoder_of_another_encoder_is_told_of(own, generated, monkeypatch, tmp_path):
    monkeypatch.chdir(own.folder)
    arguments = ["generate", own.run_folder.name, "-o", str(tmp_path / "x"), "--count=1", "--steps=1"]
    assert "the very encoder" not in CliRunner().invoke(cli, arguments).output
    done = CliRunner().invoke(cli, [*arguments, "--decoder=demo"])
    assert done.exit_code == 0
    assert "is not of the very encoder whose latents" in " ".join(done.output.split())


def test_a_misspelt_parameter_is_refused(own):
    wrong = own.kedro("run", "--env=tiny", COMMAND, "--plan", "--params", "generate.guidence=2")
    assert wrong.returncode == 1
    assert "did you mean 'generate.guidance'?" in " ".join(wrong.stdout.split())


def test_the_kl_vae_decodes_the_samples_where_that_is_wanted(own, generated):
    assert not {name for name in own.plan(COMMAND) if "kl" in name}
    on = ("--params", "kl_samples.enabled=true")
    ran = own.ran(COMMAND, *on)
    assert {name for name in ran if "kl" in name} == {
        "train_kl.plan_comparison",
        "train_kl.begin_kl",
        "train_kl.train_kl",
        "generate.take_kl",
        "generate.decode_kl_samples",
    }
    assert not LATENTS & ran
    table = pandas.read_csv(own.run_folder / "samples" / "metrics.csv")
    assert table["images_of"].tolist()[-1] == "KL-VAE"
    assert "KL-VAE" in set(pandas.read_csv(own.run_folder / "samples" / "speed.csv")["decoder"])
    kinds = {
        kind: load_file(own.run_folder / "samples" / kind / "images-00000.safetensors") for kind in ("kl", "student")
    }
    assert torch.equal(kinds["kl"]["seed"], kinds["student"]["seed"])
    assert not torch.equal(kinds["kl"]["image"], kinds["student"]["image"])
    assert own.stale(COMMAND, *on) == {}
    assert not {name for name in own.ran(COMMAND) if "decode" in name or "train" in name}
