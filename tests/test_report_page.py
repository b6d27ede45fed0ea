"""The page of a run: its words around the figures, and its columns, which follow the table of metrics."""

import json
import re

import pandas
import plotly.graph_objects
import pytest
import torch
from PIL import Image

from ssdd.benchmarking.benchmark_figures import quality_figure
from ssdd.reporting.report_page import write_report
from ssdd.reporting.run_figures import curves_figure
from ssdd_metrics import MetricSuite
from ssdd_metrics.registry import METRICS, Metric

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
    """Returns the page's text as a reader sees it, and its HTML."""

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


@pytest.fixture
def new_metric(monkeypatch):
    """One entry in the table of metrics, and nothing else."""

    def largest_error(reference, reconstruction):
        return (reference.double() - reconstruction.double()).abs().flatten(1).amax(1)

    entry = Metric("largest_error", "largest error (grey levels)", "lower", 1, "pixelwise", largest_error)
    monkeypatch.setitem(METRICS, "largest_error", entry)


def test_a_new_metric_appears_by_itself(page, new_metric):
    suite = MetricSuite("offline")
    reference = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    reconstruction = reference + torch.tensor([10, 20, 60], dtype=torch.uint8)[:, None, None, None]
    suite.update(reference, reconstruction)
    report = suite.report()
    interval = report["intervals"]["largest_error"]
    figures = {"largest_error": report["metrics"]["largest_error"]}
    figures |= {f"largest_error_{end}": interval[end] for end in ("low", "high")}
    seen, _ = page(**figures)
    assert "sliced Wasserstein x 1000, lower is better largest error (grey levels) lower is better student" in seen
    assert "12.3 30.0 10.0 to 60.0 Measured on" in seen

    points = pandas.DataFrame([{"model": "student", "steps": 1, "images_per_second": 2.0, "psnr": 24.0, **figures}])
    quality = quality_figure(points)
    titles = [title.text for title in quality.layout.annotations]
    assert titles == ["PSNR (dB)<br>higher is better", "largest error (grey levels)<br>lower is better"]
    assert [list(trace.y) for trace in quality.data] == [[24.0], [30.0]]

    history = pandas.DataFrame({"step": [1, 2], "split": ["train", "eval"], "loss": [0.5, None], **figures})
    curves = curves_figure({"pretrain": None, "distill": history})
    assert [title.text for title in curves.layout.annotations] == [
        "training loss",
        "held-out largest error (grey levels)",
    ]


def test_second_forms_of_a_metric_are_left_out(page):
    seen, _ = page(mse=0.01, ssim_uniform=0.5, lpips_vgg=0.2)
    assert "PSNR (dB)" in seen
    assert not {"MSE", "SSIM", "LPIPS"} & set(seen.split())


def test_panels_of_many_metrics_stand_in_rows():
    names = [name for name, metric in METRICS.items() if metric.in_report]
    assert len(names) > 4
    points = pandas.DataFrame([{"model": "student", "steps": 1, "images_per_second": 2.0, **dict.fromkeys(names, 1.0)}])
    history = pandas.DataFrame({"step": [1], "split": ["eval"], **{name: [1.0] for name in names}})
    for figure in (quality_figure(points), curves_figure({"distill": history})):
        assert len(figure.layout.annotations) == len(figure.data) == len(names)
        assert len({trace.yaxis for trace in figure.data}) == len(names)
