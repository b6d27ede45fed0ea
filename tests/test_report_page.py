"""What the page of a run says around its figures."""

import json
import re

import pandas
import plotly.graph_objects
import pytest
from PIL import Image

from ssdd.stages.report.nodes import write_report

PROTOCOL = {
    "images": 192,
    "resolution": "64x96",
    "resize": "bilinear, Pillow",
    "crop": "centre",
    "noise_seed": 7,
    "dtype": "bfloat16",
    "dataset": "photographs, validation, sha256:eaa8",
}
STATISTICS = {"overall_mean": -0.25, "overall_std": 1.5, "mean": [0.125, -0.5], "std": [1, 2.25]}


@pytest.fixture
def page():
    """The page's text as a reader sees it, and its HTML."""

    def write(statistics=STATISTICS, **values):
        row = {"model": "student", "steps": 1, "psnr": 24.126, "psnr_low": 23.5, "psnr_high": 25.0, "swd": 12.34}
        metrics = pandas.DataFrame([{**row, **values, "protocol": json.dumps(PROTOCOL)}])
        picture = Image.new("RGB", (8, 8))
        figure = plotly.graph_objects.Figure()
        html = write_report(metrics, picture, picture, figure, statistics, "mine <1>")
        seen = re.sub(r"<(script|style|head).*?</\1>|<[^>]+>", " ", html, flags=re.DOTALL)
        return " ".join(seen.split()), html

    return write


def test_figures_stand_above_the_protocol_that_they_hold_for(page):
    seen, html = page()
    assert "SSDD: run mine &lt;1&gt;" in seen
    assert "student 1 24.13 23.50 to 25.00 12.3 Measured on 192 held-out images of 64 x 96 pixels" in seen
    assert "(resize: bilinear, Pillow; crop: centre)" in seen
    assert "noise seed 7, computed in bfloat16" in seen
    assert "95 % confidence interval" in seen
    details = html.partition("<details>")[2]
    assert "sha256:eaa8" in details
    assert "sha256:eaa8" not in html.partition("<details>")[0]


def test_units_and_directions_stand_in_the_heading(page):
    seen, _ = page()
    assert "PSNR (dB) higher is better sliced Wasserstein x 1000, lower is better student" in seen


def test_latent_statistics_are_listed_by_channel(page):
    seen, _ = page()
    assert "Mean -0.250, standard deviation 1.500 over all elements; by channel: mean 0.125, -0.500; " in seen
    assert "standard deviation 1.000, 2.250." in seen
    seen, html = page(statistics=None)
    assert "Latents" not in html
    assert "Protocol" in seen
