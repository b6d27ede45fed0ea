"""The card of a released model where the images are the user's own, or less is known."""

import json

import pandas
import pytest
import yaml

from ssdd import SSDD
from ssdd.parameters import DataParameters
from ssdd.reporting.model_card import model_card

PROTOCOL = {"images": 9, "resolution": "32x32", "resize": "bilinear", "crop": "centre", "noise_seed": 0}
ROW = {"model": "student", "steps": 1, "psnr": 20.0, "psnr_low": 19.0, "psnr_high": 21.0}
METRICS = pandas.DataFrame([{**ROW, "protocol": json.dumps(PROTOCOL)}])
PHOTOGRAPHS = pandas.DataFrame(
    [
        {"number": n, "width": 96, "height": 64, "row": row, "psnr": psnr + n, "border_ratio": 1.25}
        for n in range(2)
        for row, psnr in (("resize by 8", 20.0), ("student, 1 step", 25.0 + n))
    ]
)
ROUNDING = {"images": 9, "steps": 1, "psnr_exact": 20.0, "psnr_rounded": 19.9994, "psnr_between": 55.55}
INDEX = pandas.DataFrame({"path": [f"{i}.jpg" for i in range(12)], "split": ["train"] * 10 + ["validation"] * 2})


@pytest.fixture
def write(tmp_path):
    """Returns the card of a small model of a folder of images."""
    file = SSDD("debug", "debug").save_pretrained(tmp_path / "ssdd.safetensors")

    def card(run_name="mine", histories=None, origin=None, **data):
        source = DataParameters(**({"kind": "folder", "root": "/home/somebody/holiday"} | data))
        return model_card(file, run_name, METRICS, PHOTOGRAPHS, ROUNDING, histories or {}, INDEX, source, origin or {})

    return card


def test_images_of_a_user_are_counted_and_their_licence_is_left_to_them(write):
    card = write()
    assert "10 training images and 2 held-out ones of the source `folder`: holiday. Licence: state it here." in card
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "other"
    assert "| author |" not in card  # the sample's photographs had no part in it
    assert "somebody" not in card
    assert "`huggingface`: owner/pictures." in write(kind="huggingface", root=None, hub="owner/pictures")


def test_figures_of_whole_photographs_are_gains_over_the_resize(write):
    card = write()
    assert "2 whole photographs, shrunk to at most 96 pixels a side." in card
    assert "| student, 1 step | +5.50 | +5.00 | 26.00 | 1.250 |" in card


def test_growth_has_three_points_of_a_stage(write):
    history = pandas.DataFrame({"step": range(10, 60, 10), "split": "eval", "psnr": [20.0, 21, 22, 23, 24]})
    card = write(histories={"train encoder": history, "distill": history.assign(split=["train"] * 4 + ["eval"])})
    table = card.partition("held-out PSNR (dB) |\n|---|---|---|\n")[2].partition("\n\n")[0]
    rows = [
        "train encoder | 10 | 20.00",
        "train encoder | 30 | 22.00",
        "train encoder | 50 | 24.00",
        "distill | 100 | 24.00",
    ]
    assert table == "\n".join(f"| {row} |" for row in rows)


def test_what_is_not_known_is_left_out(write):
    card = write(histories={"train encoder": None, "distill": pandas.DataFrame({"step": [1], "split": ["train"]})})
    assert "optimiser steps" not in card
    assert "Command and commit are not known" in card


def test_the_model_is_loaded_by_its_name_if_it_comes_with_the_package(write):
    assert 'from_pretrained("ssdd.safetensors")' in write()
    assert 'from_pretrained("demo")' in write(run_name="demo")


def test_every_commit_is_named_with_its_nodes(write):
    commits = {"abc with uncommitted changes": ["train_encoder", "distill"], "def": ["pack_model"]}
    card = write(origin={"command": "kedro run --env=demo", "commits": commits, "machines": ["CPU one", "CPU two"]})
    assert "* Commit abc with uncommitted changes: train_encoder, distill.\n* Commit def: pack_model.\n" in card
    assert "* Machine: CPU one; CPU two.\n" in card
    assert "\n```sh\nkedro run --env=demo\n```\n" in card
