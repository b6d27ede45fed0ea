"""The stage `release` on a small run: the file for others, and its card."""

import json
import re
import shutil
import subprocess

import pandas
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from ssdd import SSDD
from ssdd.commands.group import cli
from ssdd.files import sha256_file

NODES = {"release.pack_model", "release.measure_rounding", "release.write_card"}


@pytest.fixture(scope="module")
def released(project, finished, tmp_path_factory):
    """A copy of the finished project after `kedro run --pipeline=release`, which has added the stage and no more."""
    assert finished.returncode == 0, finished.stdout
    folder = tmp_path_factory.mktemp("released") / "project"
    shutil.copytree(project.folder, folder)
    for words in ("init -q", "add pyproject.toml", "-c user.name=a -c user.email=a@b commit -qm first"):
        subprocess.run(["git", *words.split()], cwd=folder, check=True)
    copy = type(project)(folder, project.warm)
    assert copy.ran("--pipeline=release") == NODES
    return copy


@pytest.fixture(scope="module")
def card(released):
    return (released.run_folder / "release/README.md").read_text()


def table(card, header):
    """The rows of the Markdown table whose header begins so, as lists of cells."""
    rows = card.partition(f"\n| {header} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_second_run_does_nothing_and_another_student_makes_all_stale(released):
    assert "nothing to do" in released.run("--pipeline=release").stdout
    assert released.stale("--pipeline=release", "--params=distill.optim.lr=0.5").keys() >= NODES


def test_the_file_is_the_student_with_rounded_weights_and_loads_as_float32(released):
    file = released.run_folder / "release/ssdd.safetensors"
    student = released.run_folder / "models/distilled.safetensors"
    packed, exact = load_file(file), load_file(student)
    assert packed.keys() == exact.keys()
    assert file.stat().st_size < 0.6 * student.stat().st_size
    model = SSDD.from_pretrained(file)
    assert SSDD.config_of(file) == SSDD.config_of(student)
    for name, loaded in model.state_dict().items():
        kind = torch.bfloat16 if exact[name].ndim > 1 else torch.float32
        assert packed[name].dtype == kind, name
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, exact[name].to(kind).float()), name


def test_what_rounding_cost_is_measured_as_the_final_evaluation_measures(released, card):
    found = json.loads((released.run_folder / "release/rounding.json").read_text())
    metrics = pandas.read_csv(released.run_folder / "evaluation/metrics.csv")
    student = metrics[metrics["model"] == "student"].iloc[0]
    assert (found["images"], found["steps"]) == (12, student["steps"])
    assert found["psnr_exact"] == pytest.approx(student["psnr"], abs=1e-6)
    assert 0 < abs(found["psnr_rounded"] - found["psnr_exact"]) < 0.1
    assert 40 < found["psnr_between"] < 100
    for name, digits in (("psnr_exact", 3), ("psnr_rounded", 3), ("psnr_between", 1)):
        assert f"{found[name]:.{digits}f} dB" in " ".join(card.split())


def test_the_card_has_front_matter_and_facts_of_the_file(released, card):
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert yaml.safe_load(front)["library_name"] == "ssdd"
    assert yaml.safe_load(front)["metrics"] == ["psnr", "ssim_gaussian", "frechet_random_conv"]
    (result,) = yaml.safe_load(front)["model-index"][0]["results"]
    psnr = pandas.read_csv(released.run_folder / "evaluation/metrics.csv").query("model == 'student'")["psnr"].iloc[0]
    assert result["metrics"][0]["value"] == pytest.approx(psnr, abs=1e-5)
    assert result["metrics"][0]["name"] == "PSNR (dB), 1 step"
    file = released.run_folder / "release/ssdd.safetensors"
    model = SSDD.from_pretrained(file)
    for part in (model.encoder, model.decoder):
        assert f"{sum(value.numel() for value in part.state_dict().values()):,} (" in text
    assert f"{file.stat().st_size:,} bytes" in text
    assert sha256_file(file) in text
    assert "{{" not in text
    assert "{%" not in text


def test_figures_of_the_card_are_those_of_the_table(released, card):
    metrics = pandas.read_csv(released.run_folder / "evaluation/metrics.csv")
    rows = table(card, "model | steps")
    assert [row[0] for row in rows] == metrics["model"].tolist()
    for row, (_, value) in zip(rows, metrics.iterrows(), strict=True):
        assert row[1] == str(value["steps"] or "")
        interval = f"({value['psnr_low']:.2f} to {value['psnr_high']:.2f})"
        assert row[2] == f"{value['psnr']:.2f} {interval}"
        assert row[3].startswith(f"{value['ssim_gaussian']:.3f} (")
        assert row[4] == f"{value['frechet_random_conv']:.4f}"


def test_the_card_shows_the_growth_of_the_histories(released, card):
    rows, steps = table(card, "stage"), 0
    assert [row[0] for row in rows] == ["train encoder", "pretrain", "finetune", "distill"]
    for row, name in zip(rows, ("encoder", "pretrain", "finetune", "distill"), strict=True):
        history = pandas.read_csv(released.run_folder / f"training/{name}.csv")
        values = history[history["split"] == "eval"]["psnr"].tolist()
        steps += history["step"].max()
        assert row[1:] == [str(steps), f"{values[-1]:.2f}"]


def test_the_card_names_author_and_licence_of_every_photograph(released, card):
    index = pandas.read_parquet(released.run_folder / "images/index.parquet")
    canvases = {path.split("/")[0]: split for path, split in zip(index["path"], index["split"], strict=True)}
    photographs = {name for name in canvases if not name.startswith("leaves-")}
    rows = {row[0]: row[1:] for row in table(card, "photograph")}
    assert rows.keys() == photographs
    assert len(photographs) > 15
    for name, (use, author, licence, source) in rows.items():
        assert use == ("training" if canvases[name] == "train" else "held out")
        assert author
        assert licence
        assert source
    assert rows["sunset.jpg"][1:3] == ["Aitzol Berasategi", "CC-BY-4.0"]
    assert rows["chelsea.png"][1:3] == ["Stefan van der Walt", "CC0-1.0"]
    assert "dead leaves (1 canvas of overlapping" in card


def test_the_card_names_command_and_commit_of_the_stamps(released, card):
    stamp = json.loads((released.run_folder / "release/ssdd.safetensors.lineage.json").read_text())
    assert f"\n{stamp['about']['command']}\n" in card
    assert "--pipeline=release" in card
    training = [f"{stage}.{stage}" for stage in ("train_encoder", "pretrain", "finetune")]
    training = ["prepare.prepare_images", *training, "distill.cache_teacher_targets", "distill.distill_teacher"]
    training += ["z_stats.compute_latent_statistics"]  # which the file has in its header
    assert re.fullmatch("[0-9a-f]{40}", stamp["about"]["commit"])  # the stages before ran outside of a repository
    commits = {"unknown": training, stamp["about"]["commit"]: ["release.pack_model"]}
    assert dict(re.findall(r"^\* Commit (.*): (.*)\.$", card, re.MULTILINE)) == {
        commit: ", ".join(nodes) for commit, nodes in commits.items()
    }
    assert f"* Machine: {stamp['about']['machine']['cpu']}.\n" in card


def test_the_lines_on_use_run(released, card, monkeypatch):
    monkeypatch.chdir(released.run_folder / "release")
    (code,) = re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)
    names = {}
    exec(code, names)
    assert names["image"].shape == names["x"].shape
    assert f"# {tuple(names['z'].shape)}" in code


def test_the_command_writes_the_same_card_of_the_run(released, card, monkeypatch, tmp_path):
    monkeypatch.chdir(released.folder)
    done = CliRunner().invoke(cli, ["card", "quickstart"])
    assert done.exit_code == 0, done.stderr
    assert table(done.stdout, "model | steps") == table(card, "model | steps")
    assert 'AutoencoderSSDD.from_pretrained("distilled.safetensors")' in done.stdout
    assert "bfloat16" not in done.stdout.partition("## Use")[0]  # only the release has such weights
    file = tmp_path / "here/README.md"
    done = CliRunner().invoke(cli, ["card", str(released.run_folder / "release"), "-o", str(file)])
    assert done.exit_code == 0, done.stderr
    assert file.read_text() == card


def test_the_header_has_the_statistics_of_the_latents(released):
    from ssdd import AutoencoderSSDD

    file, elsewhere = released.run_folder / "release/ssdd.safetensors", released.folder / "elsewhere.safetensors"
    shutil.copy(file, elsewhere)
    found = json.loads((released.run_folder / "models/latent_stats.json").read_text())
    assert AutoencoderSSDD.from_pretrained(elsewhere).config.scaling_factor == pytest.approx(1 / found["overall_std"])


def test_the_named_copies_are_a_packaged_model(released, monkeypatch):
    """What pipelines/README.md says about a model that comes with the package."""
    from ssdd import packaged

    monkeypatch.setattr(packaged, "FOLDER", released.folder / "models")
    packaged.FOLDER.mkdir()
    release = released.run_folder / "release"
    for name in ("safetensors", "safetensors.lineage.json"):
        shutil.copy(release / f"ssdd.{name}", packaged.FOLDER / f"demo.{name}")
    monkeypatch.chdir(packaged.FOLDER)
    done = CliRunner().invoke(cli, ["info", "demo"])
    assert done.exit_code == 0, done.stderr
    assert f"demo is {packaged.FOLDER / 'demo.safetensors'}" in done.stderr
    assert "release.pack_model" in done.stdout
    done = CliRunner().invoke(cli, ["lineage", str(packaged.FOLDER / "demo.safetensors")])
    assert "(intact)" in done.stdout
