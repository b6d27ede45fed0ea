"""Every stage of `conf/imagenet` from end to end: the code of the full recipe, on small sizes; with and without GAN."""

import csv
import json
import re
from pathlib import Path

import diffusers
import numpy as np
import pandas
import pytest
import torch

from ssdd import SSDD
from ssdd.baselines import KLAutoencoder
from ssdd.generation.generator import Generator

BROKEN = {
    "train/n01440764/n01440764_cut.JPEG": "truncated",
    "train/n01443537/n01443537_text.JPEG": "not an image",
    "val/n01440764/ILSVRC2012_val_empty.JPEG": "truncated",
}
STAGES = ("train_encoder", "pretrain", "finetune", "distill")
HISTORIES = ("encoder", "pretrain", "finetune", "distill")
FIGURES = ("mse", "mae", "psnr", "ssim_gaussian", "lpips_alex", "rfid")


@pytest.fixture(scope="module")
def recipe(run, project) -> Path:
    """The folder of a run of the whole recipe."""
    done = run("distill")
    assert done.returncode == 0, done.stdout + done.stderr
    return project / "data/imagenet"


@pytest.fixture(scope="module")
def offline() -> dict[str, str]:
    """Metrics that cost little, where the figures are not what a test is about."""
    metrics = {f"{stage}.eval_metrics": "offline" for stage in STAGES}
    metrics |= {f"{stage}.best_metric": "mse" for stage in STAGES}
    return {**metrics, "evaluate.metrics": "offline"}


def history(folder: Path, stage: str) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    table = pandas.read_csv(folder / f"training/{stage}.csv")
    return table[table["split"] == "train"], table[table["split"] == "eval"]


def test_broken_images_are_listed_and_the_limit_holds(recipe):
    with open(recipe / "images/rejected.csv", newline="") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    index = pandas.read_parquet(recipe / "images/index.parquet")
    assert set(rejected) <= set(BROKEN)
    assert all(BROKEN[path] == reason for path, reason in rejected.items())
    assert len(rejected) >= 1
    limit = 16
    splits = index["split"].value_counts()
    assert limit - 2 <= splits["train"] <= limit  # of 26 files, two are broken
    assert splits["validation"] == 12
    assert index["path"].str.contains("n01440764").any()
    assert index["path"].str.contains("n01443537").any()


def test_every_stage_has_every_term_of_the_loss(recipe):
    images = (pandas.read_parquet(recipe / "images/index.parquet")["split"] == "train").sum()
    for stage in HISTORIES:
        train, evaluated = history(recipe, stage)
        assert len(train) == images // 2, stage
        for term in ("flow_matching", "lpips", "repa"):
            assert np.isfinite(train[term]).all(), (stage, term)
            assert (train[term] > 0).all(), (stage, term)
        assert ("kl" in train and (train["kl"] > 0).all()) == (stage == "encoder")
        assert "gan" not in train
        assert len(evaluated) == 1
        assert np.isfinite(evaluated[list(FIGURES)].to_numpy()).all()


def test_only_the_first_stage_trains_the_encoder(recipe):
    models = {
        name: SSDD.from_pretrained(recipe / f"models/{name}.safetensors")
        for name in ("encoder", "pretrained", "finetuned", "distilled")
    }
    for name in ("pretrained", "finetuned", "distilled"):
        for key, value in models["encoder"].encoder.state_dict().items():
            assert torch.equal(models[name].encoder.state_dict()[key], value)
    decoders = [model.decoder.conv_in.weight for model in models.values()]
    for i, one in enumerate(decoders):
        assert all(not torch.equal(one, other) for other in decoders[:i])


def test_the_evaluation_is_the_published_one(recipe):
    table = pandas.read_csv(recipe / "evaluation/metrics.csv")
    references = ("resize by 8", "resize to as many numbers", "PCA of 8 x 8 patches, 4 numbers")
    rows = [*((name, 0) for name in references), ("teacher", 8), ("teacher", 1), ("student", 1)]
    assert list(zip(table["model"], table["steps"], strict=True)) == rows
    for name in (*FIGURES, "fdd"):
        assert np.isfinite(table[name]).all(), name
    protocol = json.loads(table["protocol"].iloc[3])
    assert (protocol["steps"], protocol["images"], protocol["resolution"]) == (8, 2, "40x40")
    assert (recipe / "report/report.html").is_file()
    statistics = json.loads((recipe / "models/latent_stats.json").read_text())
    assert np.isfinite(statistics["std"]).all()


def test_again_there_is_nothing_to_do(recipe, run):
    said = run("distill", "--plan").stdout
    assert "up to date" in said
    assert not re.findall(r"^\S+\.\S+\s+(run|resume|continue|if changed)", said, re.MULTILINE), said


def test_with_gan_from_the_second_step_on(run, project, offline):
    gan = {
        f"{stage}.gan.{name}": value for stage in STAGES for name, value in {"enabled": "true", "start_step": 1}.items()
    }
    done = run("distill", run_name="gan", **offline, **gan)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in HISTORIES:
        train, _ = history(project / "data/gan", stage)
        assert train["discriminator"].iloc[0] == train["gan"].iloc[0] == 0, stage
        assert (train["discriminator"].iloc[1:] > 0).all(), stage
        assert (train["gan"].iloc[1:] > 0).all(), stage
    assert SSDD.from_pretrained(project / "data/gan/models/distilled.safetensors")


def test_the_comparison_is_the_published_one(recipe, run, project):
    plan = run("compare", "--plan", run_name="dry", **{"prepare.limit": 32}).stdout
    assert re.search(r"^compare\.write_section\s+run", plan, re.MULTILINE), plan
    small = {"epochs": 2, "batch_size": 2, "im_size": 32, "eval_images": 2, "log_every": 1}
    given = {f"{stage}.{name}": value for stage in ("train_kl", "feed_forward") for name, value in small.items()}
    done = run("train_kl", **given, **{"train_kl.width": 32})  # the original has a width of 128
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("kl", "kl_adversarial", "feed_forward"):
        train, evaluated = history(recipe, name)
        assert (train["lpips"] > 0).all()
        assert np.isfinite(evaluated[list(FIGURES)].to_numpy()).all()
    assert (history(recipe, "kl_adversarial")[0]["discriminator"].iloc[-1:] > 0).all()
    config = KLAutoencoder.config_in(recipe / "models/kl.safetensors")
    assert (config.widths, config.patch_size, config.shortcut) == ((32, 64, 128, 128), 1, False)


def test_the_generator_is_the_published_one(recipe, run):
    sides = {"latents.im_size": 256, "evaluate.im_size": 256}
    plan = run("generate", "--plan", **sides, **{"prepare.limit": 32}).stdout
    assert re.search(r"^evaluate_samples\.measure_samples\s+run", plan, re.MULTILINE), plan
    refused = run("generate", "--plan", **{"latents.im_size": 256})
    assert "got latents.im_size 256 and evaluate.im_size" in " ".join((refused.stdout + refused.stderr).split())
    small = {"size": "debug", "epochs": 1, "batch_size": 4, "eval_images": 4, "precision": "no", "log_every": 1}
    given = {f"train_generator.{name}": value for name, value in small.items()}
    few = {"count": 5, "steps": 2, "other_steps": [], "classes": [0, 1], "batch_size": 5, "teacher_steps": 1}
    given |= {f"generate.{name}": value for name, value in few.items()}
    speed = {"size": "debug", "decoder": "debug", "kl_width": 32, "pixels": 64, "steps": 1, "dtype": "float32"}
    given |= {f"generation_speed.{name}": value for name, value in {**speed, "rounds": 1, "batch_size": 1}.items()}
    given["train_generator.patch_size"] = 1  # 40 pixels are 5 cells
    done = run("generate", **given, **{"latents.im_size": 40, "latents.precision": "float32"})
    assert done.returncode == 0, done.stdout + done.stderr
    table = pandas.read_csv(recipe / "samples/metrics.csv")
    assert (table["gfid"] > 0).all()
    assert table["features"].eq("dinov2").all()
    assert Generator.config_of(recipe / "models/generator.safetensors").classes == 1000


def test_on_a_frozen_sdvae(run, project, offline, tmp_path):
    torch.manual_seed(0)
    autoencoder = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        layers_per_block=2,
    )
    autoencoder.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    done = run("pretrain", run_name="sdvae", encoder_checkpoint=file, **offline)
    assert done.returncode == 0, done.stdout + done.stderr
    model = SSDD.from_pretrained(project / "data/sdvae/models/pretrained.safetensors")
    assert torch.equal(model.encoder.conv_in.weight, autoencoder.encoder.conv_in.weight)
    assert not (project / "data/sdvae/models/encoder.safetensors").exists()
