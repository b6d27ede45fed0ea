"""The comparison's table, words, figures and parameters, on figures made up here."""

import json
from html import unescape

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from ssdd.comparison_parameters import CompareParameters
from ssdd.reporting.comparison_figures import cost_figure, difference_figure, most_different, quality_speed_figure
from ssdd.reporting.comparison_section import comparison_section, sentences
from ssdd.reporting.comparison_table import (
    FEED_FORWARD,
    KL,
    KL_ADVERSARIAL,
    at_equal_cost,
    comparison_table,
    cost_table,
    quality_metric,
)
from ssdd_metrics.bootstrap import bootstrap_interval

PLAN = {"views": 130, "views_by_stage": {"train_encoder": 0, "pretrain": 60, "finetune": 30, "distill": 40}}
PLAN |= {"images": 30, "epochs": 5}
STEPS = {"stage 1": 2.0, "stage 2": 2.0, "distillation": 1.0, "teacher targets": 0.5}
STEPS |= {KL: 1.0, KL_ADVERSARIAL: 3.0, FEED_FORWARD: 2.0}
SIDES = dict.fromkeys(("train_encoder", "pretrain", "finetune", "distill", KL, KL_ADVERSARIAL, FEED_FORWARD), 64)
PSNR = {("PCA of 8 x 8 patches", 0): 25.0, ("teacher", 8): 26.0, ("teacher", 1): 26.5, ("student", 1): 27.0}
PSNR |= {(KL, 1): 26.0, (KL_ADVERSARIAL, 1): 25.5, (FEED_FORWARD, 1): 27.5, ("small: student", 1): 24.0}


def report(model, steps, psnr):
    values = {"psnr": psnr, "efficientnet_distance": 1 - psnr / 50}
    intervals = {name: {"low": value - 0.5, "high": value + 0.5} for name, value in values.items()}
    values["frechet_efficientnet"] = 500 - 10 * psnr
    protocol = {"model": f"sha256:{model}", "images": 6, "resolution": "64x64"}
    return {"model": model, "steps": steps, "report": {"metrics": values, "intervals": intervals, "protocol": protocol}}


def per_image(model, steps, psnr):
    noise = np.random.default_rng(3).normal(0, 2, 6) + (0 if model == "student" else 0.01 * np.arange(6))
    table = pandas.DataFrame({"image": np.arange(6), "path": [f"{n}.png" for n in range(6)], "psnr": psnr + noise})
    return table.assign(model=model, steps=steps, efficientnet_distance=table["psnr"] / -50)


@pytest.fixture
def table():
    speed = pandas.DataFrame(
        {
            "model": model,
            "steps": steps,
            "pixels": pixels,
            "parameters": 1_000_000 * (1 + ("small" not in model)),
            "images_per_second": 100 / steps / (pixels / 64),
            "peak_bytes": 2**20 * pixels,
        }
        for model, steps in PSNR
        if steps
        for pixels in (64, 256)
    )
    reports = [report(model, steps, psnr) for (model, steps), psnr in PSNR.items()]
    values = [per_image(model, steps, psnr) for (model, steps), psnr in PSNR.items()]
    nothing = pandas.DataFrame(columns=["model", "steps", "path", "image"])
    return comparison_table(reports, [*values, nothing], speed)


def made_costs(plan=PLAN, steps=STEPS, sides=SIDES):
    def history(*points, steps_per_epoch=10):
        rows = [{"step": 5, "epoch": 0.5, "split": "train", "loss": 1.0}]
        rows += [{"step": e * steps_per_epoch, "epoch": float(e), "split": "eval", "psnr": v} for e, v in points]
        return pandas.DataFrame(rows)

    histories = {
        "train_encoder": history((1, 10)),
        "pretrain": history((1, 20), (2, 22)),
        "finetune": history((1, 24)),
        "distill": history((2, 25), (4, 26)),
    }
    begun = (KL, history((1, 18), (2, 20)))
    others = {
        KL: [begun, (KL, history((3, 23)))],
        KL_ADVERSARIAL: [begun, (KL_ADVERSARIAL, history((3, 22)))],
        FEED_FORWARD: [(FEED_FORWARD, history((1, 20), (5, 25)))],
    }
    measured = pandas.DataFrame({"step": list(steps), "seconds_per_view": list(steps.values())})
    return cost_table(histories, others, plan, measured, 20, sides)


@pytest.fixture
def costs():
    return made_costs()


def test_differences_are_to_the_student_over_the_same_images(table):
    row = table.set_index(["model", "steps"]).loc[(KL, 1)]
    wanted = bootstrap_interval(-1.0 + 0.01 * np.arange(6))
    assert row["psnr_difference"] == pytest.approx(wanted.mean)
    assert (row["psnr_difference_low"], row["psnr_difference_high"]) == pytest.approx((wanted.low, wanted.high))
    student = table.set_index(["model", "steps"]).loc[("student", 1)]
    assert student["psnr_difference"] == 0
    assert (row["psnr"], row["psnr_low"], row["images_per_second_256"]) == (26.0, 25.5, 25.0)
    reference = table[table["steps"] == 0].iloc[0]
    assert np.isnan(reference["images_per_second_64"])
    assert list(table["model"])[:2] == ["PCA of 8 x 8 patches", "teacher"]


def test_costs_add_up_over_the_stages(costs):
    points = {side: rows[["views", "seconds", "psnr"]].to_numpy().tolist() for side, rows in costs.groupby("side")}
    # pretrain 30 views x 2 s, ...; the student: 90 views x 2 s, 20 teacher results x 0.5 s, then 1 s for each view
    assert points["SSDD, teacher"] == [[30, 60, 20], [60, 120, 22], [90, 180, 24]]
    assert points["SSDD, student"] == [[110, 210, 25], [130, 230, 26]]
    assert points[FEED_FORWARD] == [[30, 60, 20], [150, 300, 25]]
    # 60 views before the adversary at 1 s, 90 with it at 3 s
    assert points[KL_ADVERSARIAL] == [[30, 30, 18], [60, 60, 20], [150, 60 + 270, 22]]
    assert points[KL] == [[30, 30, 18], [60, 60, 20], [150, 150, 23]]


def test_stages_of_other_images_cost_what_they_cost_and_show_nothing():
    plan = PLAN | {"views_by_stage": {"train_encoder": 10, "pretrain": 60, "finetune": 30, "distill": 40}}
    sides = SIDES | {"train_encoder": 16, "pretrain": 32, KL: 32}
    costs = made_costs(plan, STEPS | {"stage 1": 0.5}, sides)
    points = {side: rows[["views", "seconds"]].to_numpy().tolist() for side, rows in costs.groupby("side")}
    # 10 views of a quarter of the pixels at 0.5 / 4 s, 60 at 0.5 s, 30 at 2 s
    assert points["SSDD, teacher"] == [[100, 91.25]]
    assert points["SSDD, student"] == [[120, 121.25], [140, 141.25]]
    assert points[FEED_FORWARD] == [[30, 60], [150, 300]]
    assert KL not in points


def test_the_feed_forward_decoder_is_read_at_the_students_cost(costs):
    pair = at_equal_cost(costs, "psnr")
    assert pair["student"] == 26
    assert pair["feed_forward"] == pytest.approx(20 + 5 * (230 - 60) / 240)
    assert at_equal_cost(costs, "ssim_gaussian") is None


def test_the_words_say_who_is_better_and_how_sure_that_is(table, costs):
    said = sentences(table, costs, PLAN)
    kl = next(line for line in said if line.startswith(f"The student against {KL}:"))
    assert "PSNR (dB) better (+0.9" in kl
    forward = next(line for line in said if line.startswith(f"The student against {FEED_FORWARD}:"))
    assert "PSNR (dB) worse (-0.5" in forward
    sets = next(line for line in said if line.startswith("Distances between whole sets"))
    assert "Frechet, EfficientNet features student 230.000, KL-VAE 240.000" in sets
    table.loc[table["model"] == KL, ["psnr_difference_low", "psnr_difference_high"]] = (-1.5, 0.2)
    assert f"{KL}: PSNR (dB) not distinguishable" in sentences(table, costs, PLAN)[0]
    assert any("At equal training cost (230 s) in PSNR" in line for line in said)
    assert "130 crops" in said[-1]


def test_a_ratio_that_should_be_one_is_judged_by_its_side(table, costs):
    figures = {"": 0.5, "_difference": -0.1, "_difference_low": -0.2, "_difference_high": -0.05}
    table.loc[table["model"] == KL, [f"gradient_energy_ratio{end}" for end in figures]] = list(figures.values())
    assert "gradient energy ratio better (+0.100" in sentences(table[table["model"] == KL], costs, PLAN)[0]
    table.loc[table["model"] == KL, "gradient_energy_ratio"] = 1.5  # the student's is 1.6
    assert "gradient energy ratio worse (+0.100" in sentences(table[table["model"] == KL], costs, PLAN)[0]


def test_quality_over_speed_has_a_point_for_each_decoder_and_joins_sizes(table):
    figure = quality_speed_figure(table, 64)
    names = [trace.name for trace in figure.data if trace.showlegend]
    assert set(names) == {"teacher, 8 steps", "teacher, 1 step", "student, 1 step", KL, KL_ADVERSARIAL, FEED_FORWARD}
    joined = next(trace for trace in figure.data if trace.name == "student, 1 step")
    assert list(joined.y) == [500 - 240, 500 - 270]  # by size, the small one first
    assert "lines" in joined.mode
    assert figure.layout.annotations[0].text.startswith("Frechet, EfficientNet features")


def test_the_quality_is_rfid_where_it_is_there():
    assert quality_metric(["psnr", "rfid", "frechet_efficientnet"]) == "rfid"
    assert quality_metric(["psnr", "frechet_random_conv"]) == "frechet_random_conv"


def test_the_crop_is_the_one_that_differs_most():
    first = torch.randint(0, 200, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[:, 10:18, 30:38] += 50
    assert most_different(first, second, 8) == (2500, (30, 10, 38, 18))
    assert most_different(first, second, 99)[1] == (0, 0, 40, 40)


def test_photographs_stand_in_the_order_of_their_difference():
    pictures = {}
    for number, level in enumerate((10, 30, 20)):
        for name in ("input", "a", "b"):
            pictures[f"{number}.{name}"] = torch.full((3, 64, 96), 100 * (name == "input"), dtype=torch.uint8)
        pictures[f"{number}.b"] += level
    sheet = np.asarray(difference_figure(pictures, ("input", "a", "b"), ("a", "b"), 16, 2))
    column = sheet[:, -10]
    assert [int(column[place][0]) for place in (60, 60 + 198)] == [30, 20]


def test_the_section_holds_table_figures_and_words(table, costs):
    figures = quality_speed_figure(table, 64), cost_figure(costs)
    made = comparison_section(table, costs, PLAN, *figures, Image.new("RGB", (8, 8)))
    assert made["student"] == "sha256:student"
    for text in (*made["sentences"], "decoding, 256 px", "PCA of 8 x 8 patches", "small: student", "<td>2</td>"):
        assert text in unescape(made["html"])
    json.dumps(made)


def test_further_rows_are_read_from_lists_and_from_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = CompareParameters(tokenizers=["a/b", str(tmp_path)], runs=[1])
    assert [item.source for item in listed.tokenizers] == ["a/b", str(tmp_path)]
    assert listed.runs[0].run == "1"
    assert [item.source for item in CompareParameters(tokenizers="a/b; c").tokenizers] == ["a/b", "c"]
    assert CompareParameters(tokenizers=None).tokenizers == ()
    with pytest.raises(ValidationError, match="expected a run_name"):
        CompareParameters(runs=["../x"])


def test_another_file_makes_a_row_stale(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models = tmp_path / "data" / "mine" / "models"
    models.mkdir(parents=True)
    before = CompareParameters(runs=["mine"], tokenizers=[str(models)])
    (models / "distilled.safetensors").write_bytes(b"weights")
    after = CompareParameters(runs=["mine"], tokenizers=[str(models)])
    assert before != after
    assert before.tokenizers != after.tokenizers
    assert after == CompareParameters(runs=["mine"], tokenizers=[str(models)])
