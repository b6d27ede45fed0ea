"""Whole held-out photographs: which are taken, what their pictures and figures are, and the measure of a grid."""

import dataclasses
import math

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from ssdd import SSDD
from ssdd.data.image_index import index_images
from ssdd.data.image_sets import held_out_images, open_images, training_images
from ssdd.evaluation.photographs import border_ratio, choose_photographs, decode_photographs
from ssdd.evaluation.reference_rows import resize_to_numbers
from ssdd.parameters import DataParameters, EvaluateParameters, PretrainedNetworks, RuntimeConfig, StageParameters
from ssdd.reporting.photograph_figures import photographs_figure, summary
from ssdd_metrics import psnr
from ssdd_metrics.registry import METRICS

SIZES = ((97, 64), (64, 200), (300, 180))  # width, height; the last is shrunk to 200 x 120


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split, sizes in (("train", [(64, 64)] * 4), ("val", SIZES)):
        for number, (width, height) in enumerate(sizes):
            pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
            (tmp_path / "images" / split / "a").mkdir(parents=True, exist_ok=True)
            picture.save(tmp_path / "images" / split / "a" / f"{number}.png")
    return DataParameters(kind="imagenet", root=str(tmp_path / "images"))


@pytest.fixture
def decoded(folder, tmp_path):
    files = []
    for seed, name in enumerate(("teacher", "student")):
        torch.manual_seed(seed)
        model = SSDD("debug", "debug")
        torch.nn.init.normal_(model.decoder.conv_out.weight, std=0.1)
        files.append(model.save_pretrained(tmp_path / f"{name}.safetensors"))
    index = index_images(open_images(folder), progress=False).index
    settings = {"im_size": 32, "teacher_steps": (1, 3), "photographs": 3, "photograph_side": 200}
    runtime = RuntimeConfig(device="cpu", threads=1, workers=0, progress=False)
    training = training_images(index, folder, StageParameters(im_size=32))
    dataset = held_out_images(index, folder, 32)

    def decode(metrics=("psnr", "swd")):
        parameters = EvaluateParameters(**settings, metrics=metrics)
        return decode_photographs(*files, training, dataset, parameters, PretrainedNetworks(), runtime)

    return decode


def test_photographs_keep_their_shape_and_have_a_row_for_each_model(decoded):
    pictures, table = decoded()
    rows = ["resize by 8", "resize to as many numbers", "PCA of 8 x 8 patches, 4 numbers"]
    rows += ["teacher, 3 steps", "teacher, 1 step", "student, 1 step"]
    assert list(table["row"]) == rows * 3
    assert list(dict.fromkeys(table["photograph"])) == [f"val/a/{number}.png" for number in range(3)]
    for number, (width, height) in enumerate((*SIZES[:2], (200, 120))):
        for row in ("input", *rows):
            assert pictures[f"{number}.{row}"].shape == (3, height, width)
    assert not torch.equal(pictures["0.teacher, 1 step"], pictures["0.student, 1 step"])


def test_figures_are_those_of_the_pictures(decoded):
    pictures, table = decoded()
    assert "swd" not in table  # which one image does not have
    for row in table.to_dict("records"):
        clean, image = (pictures[f"{row['number']}.{name}"][None] for name in ("input", row["row"]))
        assert row["psnr"] == pytest.approx(psnr(clean, image).item())


@pytest.mark.parametrize("metrics", [("swd",), ("mae", "frechet_random_conv")])
def test_rows_are_compared_by_psnr_whatever_the_metrics(decoded, metrics):
    _, table = decoded(metrics)
    assert np.isfinite([row["gain"] for row in summary(table)]).all()
    assert ("mae" in table) == ("mae" in metrics)


def test_metrics_that_need_larger_photographs_are_left_out(decoded, monkeypatch):
    entry = dataclasses.replace(METRICS["ssim_gaussian"], min_side=65)  # the smallest side is 64
    monkeypatch.setitem(METRICS, "ssim_gaussian", entry)
    _, table = decoded(("psnr", "ssim_gaussian", "mae"))
    assert "ssim_gaussian" not in table
    assert "mae" in table


def test_the_same_photographs_give_the_same_bits(decoded):
    (first, table), (second, again) = decoded(), decoded()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    pandas.testing.assert_frame_equal(table, again)


def test_the_sample_gives_its_photographs_and_not_their_crops():
    data = DataParameters(sample={"train_images": 1, "validation_images": 20, "canvases": 1})
    dataset = held_out_images(index_images(open_images(data), progress=False).index, data, 32)
    names = choose_photographs(dataset, 64)
    assert len(names) == 8
    assert "astronaut.png" in names
    assert dataset.source.open_photograph("astronaut.png").size == (512, 512)
    assert choose_photographs(dataset, 2) == [names[0], names[-1]]


def test_border_ratio_sees_steps_between_cells():
    ramp = torch.arange(64.0).expand(3, 64, 64)
    assert border_ratio(ramp, 8) == pytest.approx(1)
    stepped = ramp + 3 * (ramp // 8)  # one more step of 3 at each border, along one of two axes
    assert border_ratio(stepped, 8) == pytest.approx(4)
    assert math.isnan(border_ratio(torch.zeros(3, 16, 16), 8))


def test_a_resize_to_as_many_numbers_has_as_many():
    noise = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    basis = resize_to_numbers(torch.eye(64 * 48)[::11].view(-1, 1, 64, 48), 8, 16)
    rank = torch.linalg.matrix_rank(basis.flatten(1), tol=1e-3).item()
    assert rank == 18 * 14  # round(64 / 3.46) x round(48 / 3.46), times 3: 756 of the latents' 8 x 6 x 16 = 768 numbers
    assert resize_to_numbers(noise, 8, 3 * 64).allclose(noise, atol=1e-5)  # nothing to shrink


def test_the_picture_shows_each_photograph_and_a_detail(decoded):
    pictures, table = decoded()
    sheet = photographs_figure(pictures, table, count=2)
    heights = [round(400 * height / width) for width, height in SIZES[:2]]
    assert sheet.size == (4 * 408 - 8, 36 + sum(height + 266 + 24 for height in heights))


def test_gains_are_over_the_resize_by_f(decoded):
    _, table = decoded()
    rows = {row["row"]: row for row in summary(table)}
    psnr_of = {name: table[table["row"] == name]["psnr"].to_numpy() for name in rows}
    gains = psnr_of["student, 1 step"] - psnr_of["resize by 8"]
    assert rows["student, 1 step"]["gain"] == pytest.approx(np.median(gains))
    assert rows["student, 1 step"]["worst"] == pytest.approx(gains.min())
