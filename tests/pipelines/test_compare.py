"""The comparison of a small run: one command makes all of it, once; a change renews what follows from it alone."""

import json
import os
import shutil

import numpy as np
import pandas
import pytest
from PIL import Image

from ssdd import SSDD
from ssdd.baselines import KLAutoencoder
from ssdd.datasets import PlotlyDataset, PNGDataset, TableDataset
from ssdd.reporting.comparison_table import FEED_FORWARD, KL, KL_ADVERSARIAL

COMMAND = "--pipeline=compare"


def link_weights(source, target):
    """Copies a file, or makes a link to a checkpoint, which no run here writes into."""
    (os.link if source.endswith(".safetensors") else shutil.copy2)(source, target)


@pytest.fixture(scope="module")
def own(project, finished, tmp_path_factory):
    """A copy of the finished project for this file."""
    assert finished.returncode == 0, finished.stdout
    folder = tmp_path_factory.mktemp("compared") / "project"
    shutil.copytree(project.folder, folder, copy_function=link_weights)
    return type(project)(folder, project.warm)


@pytest.fixture(scope="module")
def compared(own):
    """The nodes that ran for its comparison, with trainings side by side; later ones follow one another."""
    return own.ran(COMMAND, "--params=runtime.trainings_at_once=2")


def test_one_command_makes_table_figures_and_section(own, compared):
    assert {"train_kl.train_kl", "train_kl.train_kl_adversarial", "train_kl.train_feed_forward"} < compared
    assert not {"train_encoder.train_encoder", "distill.distill_teacher", "evaluate.evaluate_teacher"} & compared
    folder = own.run_folder / "comparison"
    table = pandas.read_csv(folder / "comparison.csv")
    rows = list(zip(table["model"], table["steps"], strict=True))
    assert rows[-6:] == [
        ("teacher", 2),
        ("teacher", 1),
        ("student", 1),
        (KL, 1),
        (KL_ADVERSARIAL, 1),
        (FEED_FORWARD, 1),
    ]
    assert (table["steps"] == 0).sum() == 3
    assert table["psnr_low"].notna().all()
    models = table["steps"] > 0
    assert (table.loc[models, "images_per_second_32"] > 0).all()
    assert table.loc[~models, "images_per_second_32"].isna().all()
    costs = pandas.read_csv(folder / "costs.csv")
    assert (costs.groupby("side").size()[["KL-VAE", "feed-forward"]] >= 3).all()
    assert costs["seconds"].gt(0).all()
    for name in ("quality_speed", "costs"):
        assert json.loads((folder / f"{name}.json").read_text())["data"]
    assert np.asarray(Image.open(folder / "differences.png")).std() > 0
    page = (own.run_folder / "report" / "report.html").read_text()
    for text in ("The student against KL-VAE", "crops in which the decoders differ most", KL_ADVERSARIAL):
        assert text in page


def test_tables_and_figures_have_previews(own, compared):
    folder = own.run_folder / "comparison"
    for name in ("comparison", "costs", "speed"):
        assert "columns" in TableDataset(filepath=str(folder / f"{name}.csv")).preview()
    for name in ("quality_speed", "costs"):
        assert PlotlyDataset(filepath=str(folder / f"{name}.json")).preview()["data"]
    assert len(PNGDataset(filepath=str(folder / "differences.png")).preview()) > 1000


def test_each_decoder_has_seen_as_many_images_as_ssdds(own, compared):
    plan = json.loads((own.run_folder / "comparison" / "plan.json").read_text())
    assert plan["views"] == 4 * 32  # four stages of one epoch each
    epochs = {
        name: pandas.read_csv(own.run_folder / "training" / f"{name}.csv")["epoch"].max()
        for name in ("kl_start", "kl", "kl_adversarial", "feed_forward")
    }
    assert epochs == {"kl_start": 2, "kl": 2, "kl_adversarial": 2, "feed_forward": 4}
    adversarial = pandas.read_csv(own.run_folder / "training" / "kl_adversarial.csv").query("split == 'train'")
    assert (adversarial["discriminator"] > 0).all()


def test_a_second_run_does_nothing_and_others_keep_the_section(own, compared):
    assert own.stale(COMMAND) == {}
    assert own.stale("--pipeline=distill") == {}


def test_a_change_retrains_the_one_decoder_that_it_is_of(own, compared):
    def trained(change):
        return {name for name, (what, _) in own.stale(COMMAND, "--params", change).items() if what != "if changed"}

    both = {"train_kl.train_kl", "train_kl.train_kl_adversarial"}
    training = {"train_kl.begin_kl", *both, "train_kl.train_feed_forward"}
    everything = {name for name in own.plan(COMMAND) if "train" in name or "distill" in name or "tune" in name}
    assert trained("train_kl.optim.lr=0.02") & everything == training - {"train_kl.train_feed_forward"} | {
        "compare.measure_training_cost"
    }
    assert trained("kl_adversary.start=0.3") & training == training - {"train_kl.train_feed_forward"}
    assert trained("kl_adversary.lr=0.01") & training == {"train_kl.train_kl_adversarial"}
    assert trained("feed_forward.seed=3") & training == {"train_kl.train_feed_forward"}
    assert trained("compare_grid.crop=8") == {"compare.draw_differences"}


def test_without_the_adversary_its_row_is_gone(own, compared):
    off = ("--params", "kl_adversary.enabled=false")
    assert not {name for name in own.plan(COMMAND, *off) if "adversarial" in name}
    own.ran(COMMAND, *off)
    table = pandas.read_csv(own.run_folder / "comparison" / "comparison.csv")
    assert [name for name in table["model"] if name in (KL, KL_ADVERSARIAL, FEED_FORWARD)] == [KL, FEED_FORWARD]
    assert KL_ADVERSARIAL not in (own.run_folder / "report" / "report.html").read_text()
    assert own.stale(COMMAND, "--nodes=compare.measure_speed", *off) == {}  # alone, a node has the same inputs
    assert "train_kl.train_kl_adversarial" not in own.ran(COMMAND)  # its training is kept for when it is wanted again


def test_another_run_becomes_a_row(own, compared):
    params = ("--params", f"compare.runs={own.run_folder.name}")
    assert own.ran(COMMAND, *params) >= {"compare.evaluate_others", "compare.measure_speed"}
    table = pandas.read_csv(own.run_folder / "comparison" / "comparison.csv").set_index(["model", "steps"])
    other = table.loc[(f"{own.run_folder.name}: student", 1)]
    assert other["psnr"] == table.loc[("student", 1), "psnr"]
    assert other["psnr_difference"] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("compare.runs=quickstar", "the run 'quickstar' has no model"),
        ("compare.tokenizers=./nowhere", "expected a folder with the config.json of a diffusers autoencoder"),
        ("train_kl.widht=8", "did you mean 'train_kl.width'?"),
        ("train_kl.gan.enabled=true", "the adversarial row has parameters of its own, kl_adversary"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(own, change, said):
    wrong = own.kedro("run", "--env=tiny", COMMAND, "--plan", "--params", change)
    assert wrong.returncode == 1
    assert said in " ".join(wrong.stdout.split())


def test_the_curve_of_quality_against_noise_needs_no_other_decoder(own, compared):
    measured = {
        f"robustness.{name}" for name in ("measure_ssdd_robustness", "measure_kl_robustness", "draw_robustness")
    }
    assert own.ran("--pipeline=robustness", "--params", "robustness.levels=[0,0.5]") == measured
    table = pandas.read_csv(own.run_folder / "robustness" / "robustness.csv")
    assert table.groupby("model", sort=False)["latent_noise"].apply(list).to_dict() == {
        "teacher": [0, 0.5],
        "student": [0, 0.5],
        KL: [0, 0.5],
    }
    clean = table[table["latent_noise"] == 0].set_index("model")["psnr"]
    compared_with = pandas.read_csv(own.run_folder / "comparison" / "comparison.csv")
    for model, steps in (("teacher", 2), ("student", 1), (KL, 1)):
        row = compared_with[(compared_with["model"] == model) & (compared_with["steps"] == steps)]
        assert clean[model] == pytest.approx(row["psnr"].item(), abs=1e-4)
    assert json.loads((own.run_folder / "robustness" / "robustness.json").read_text())["data"]
    assert np.asarray(Image.open(own.run_folder / "robustness" / "pictures.png")).std() > 0


def test_decoders_that_enlarge_are_trained_and_compared(own, compared):
    name = own.run_folder.name
    own.run(COMMAND, "--params", f"model.upscale=2,run_name=large,compare.runs={name}")
    run = own.folder / "data" / "large"
    for model, upscale in (("encoder", 1), ("pretrained", 2), ("finetuned", 2), ("distilled", 2)):
        found = SSDD.from_pretrained(run / f"models/{model}.safetensors")
        assert (found.upscale, found.encoder.config.downscale) == (upscale, 8), model
    assert KLAutoencoder.from_pretrained(run / "models/kl.safetensors").upscale == 2
    resized = "encoder's input, resized by 2"
    assert resized in set(pandas.read_csv(run / "evaluation/photographs.csv")["row"])
    table = pandas.read_csv(run / "comparison/comparison.csv")
    assert resized in set(table["model"])
    table = table[table["steps"] == 1].set_index("model")
    others = [f"{name}: teacher, resized by 2", f"{name}: student, resized by 2"]
    assert list(table.index) == ["teacher", "student", KL, KL_ADVERSARIAL, FEED_FORWARD, *others]
    assert (table["images_per_second_32"] > 0).all()
    assert table.loc[others[1], "psnr_difference"] != 0
    assert table.loc[FEED_FORWARD, "parameters"] == table.loc["student", "parameters"]
    assert {"teacher", "student"} <= set(pandas.read_csv(run / "comparison/costs.csv")["side"].str[6:])
    # beside decoders that do not enlarge, its images are as large as theirs
    own.run(COMMAND, "--params", "compare.runs=large")
    beside = pandas.read_csv(own.run_folder / "comparison/comparison.csv").set_index(["model", "steps"])
    assert beside.loc[("large: student, enlarging by 2", 1), "psnr"] == table.loc["student", "psnr"]
