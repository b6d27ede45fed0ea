"""The page of a run: its words around the figures, and its columns, which follow the table of metrics."""

import json
import re
from html import unescape

import pandas
import plotly.graph_objects
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

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


ROWS = ("resize by 8", "resize to as many numbers", "teacher, 8 steps", "teacher, 1 step", "student, 1 step")


@pytest.fixture
def photographs(tmp_path):
    """Two photographs with pictures of one colour each, and their table: the student gains 3 and 5 dB."""
    pictures, rows = {}, []
    for number, (name, width) in enumerate((("boat.jpg", 96), ("cat.png", 24))):
        pictures[f"{number}.input"] = torch.full((3, 32, width), 200, dtype=torch.uint8)
        for place, row in enumerate(ROWS):
            pictures[f"{number}.{row}"] = torch.full((3, 32, width), 40 * place, dtype=torch.uint8)
            gain = (3 + 2 * number) * (row == "student, 1 step")
            figures = {"psnr": 20.0 + 10 * number + gain, "ssim_gaussian": 0.5, "border_ratio": 1.25}
            rows.append({"number": number, "photograph": name, "width": width, "height": 32, "row": row, **figures})
    file = tmp_path / "photographs.safetensors"
    save_file(pictures, file)
    return file, pandas.DataFrame(rows)


@pytest.fixture
def page(photographs):
    """Returns the page's text as a reader sees it, and its HTML."""

    def write(statistics=STATISTICS, losses=(), comparison=None, **values):
        row = {"model": "student", "steps": 1, "psnr": 24.126, "psnr_low": 23.5, "psnr_high": 25.0, "swd": 12.34}
        metrics = pandas.DataFrame([{**row, **values, "protocol": json.dumps(PROTOCOL)}])
        picture = Image.new("RGB", (8, 8))
        figure = plotly.graph_objects.Figure([plotly.graph_objects.Scatter(y=list(losses))] if losses else [])
        html = write_report(metrics, *photographs, picture, picture, figure, statistics, comparison, "mine <1>")
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


def test_the_comparison_is_a_section_once_there_is_one(page):
    seen, html = page()
    assert "Against other decoders kedro run --pipeline=compare sets teacher and student beside" in seen
    assert "<script>" not in html.partition("</head>")[0]
    section = {"student": None, "html": "<p>The student <b>wins</b>.</p>"}
    seen, html = page(comparison=section)
    assert "Against other decoders The student wins . Crops" in seen
    assert "plotly.js" in html.partition("</head>")[0]  # its figures need it


def test_a_comparison_of_an_earlier_student_is_called_so(page):
    seen, _ = page(comparison={"student": "sha256:other", "html": ""})
    assert "This section is about an earlier student" in seen


def test_photographs_are_summed_up_by_row(page):
    seen, _ = page()
    assert "2 photographs PSNR over the resize dB, median the same dB, worst photograph PSNR (dB) mean," in seen
    assert "resize to as many numbers +0.00 +0.00 25.00 0.500 1.250 teacher, 8 steps" in seen
    assert "student, 1 step +4.00 +3.00 29.00 0.500 1.250" in seen
    assert "Best photograph of the student by PSNR: cat.png , 35.00 dB." in seen
    assert "Worst photograph of the student by PSNR: boat.jpg , 23.00 dB." in seen


# Does what a reader does, and leaves a record of it in the page.
READER = """
<script>
  const element = (id) => document.getElementById(id);
  const state = () => ({
    left: element("left-image").alt, right: element("right-image").alt, zoom: element("zoom").textContent,
    width: element("box").offsetWidth, cut: element("box").style.getPropertyValue("--cut"),
    clip: getComputedStyle(element("right-image")).clipPath, note: element("right-note").textContent,
    scroll: element("frame").scrollWidth - element("frame").clientWidth,
  });
  const record = { first: state() };
  window.addEventListener("load", () => {
    const colour = (image) => {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      canvas.getContext("2d").drawImage(image, 0, 0);
      return [image.naturalWidth, canvas.getContext("2d").getImageData(0, 0, 1, 1).data[0]];
    };
    record.pictures = [colour(element("left-image")), colour(element("right-image"))];
    for (let i = 0; i < 6; i += 1) element("larger").click();
    record.enlarged = state();
    element("fit").click();
    element("left").value = "input";
    element("left").dispatchEvent(new Event("change"));
    element("wipe").value = 20;
    element("wipe").dispatchEvent(new Event("input"));
    document.querySelectorAll("#choice button")[1].click();
    record.second = state();
    const area = element("box").getBoundingClientRect();
    element("box").setPointerCapture = () => {};
    element("box").dispatchEvent(new PointerEvent("pointerdown", { clientX: area.left + 0.75 * area.width }));
    record.dragged = state();
    document.querySelector('a[data-photograph="0"]').click();
    record.linked = state();
    const note = document.createElement("pre");
    note.id = "record";
    note.textContent = JSON.stringify(record);
    document.body.append(note);
  });
</script>
"""


@pytest.mark.parametrize("window", ["1200,900", "390,800"])  # a desk and a phone
def test_a_reader_wipes_between_two_pictures(page, browse, tmp_path, window):
    _, html = page()
    (tmp_path / "page.html").write_text(html.replace("</body>", f"{READER}</body>"))
    drawn = browse(f"file://{tmp_path}/page.html", f"window-size={window}", "dump-dom")
    record = json.loads(unescape(re.search(r'<pre id="record">(.*?)</pre>', drawn)[1]))
    first = record["first"]
    assert (first["left"], first["right"]) == ("boat.jpg: resize to as many numbers", "boat.jpg: student, 1 step")
    assert (first["zoom"], first["width"], first["cut"]) == ("100 %", 96, "50%")
    assert first["clip"] == "inset(0px 0px 0px 50%)"
    assert first["note"] == "student, 1 step: PSNR (dB) 23.00, SSIM 0.500"
    assert record["pictures"] == [[96, 40], [96, 160]]
    assert (record["enlarged"]["zoom"], record["enlarged"]["width"]) == ("800 %", 8 * 96)
    assert (record["enlarged"]["scroll"] > 0) == (window == "390,800")  # there it is wider than the page
    second = record["second"]
    assert (second["left"], second["width"], second["cut"]) == ("cat.png: input", 24, "20%")
    assert record["dragged"]["cut"] == "75%"
    assert record["linked"]["right"] == "boat.jpg: student, 1 step"


def test_units_and_directions_stand_in_the_heading(page):
    seen, _ = page()
    assert "PSNR (dB) higher is better sliced Wasserstein x 1000, lower is better student" in seen


def test_curves_are_shown_if_a_stage_has_trained(page):
    assert "Training The stages one after the other." in page(losses=[2.0, 1.0])[0]
    assert "one after the other" not in page()[0]  # teacher and student were given


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
    assert not {"MSE", "SSIM", "LPIPS"} & set(seen.partition("Metrics over crops")[2].split())


def test_panels_of_many_metrics_stand_in_rows():
    names = [name for name, metric in METRICS.items() if metric.in_report]
    assert len(names) > 4
    points = pandas.DataFrame([{"model": "student", "steps": 1, "images_per_second": 2.0, **dict.fromkeys(names, 1.0)}])
    history = pandas.DataFrame({"step": [1], "split": ["eval"], **{name: [1.0] for name in names}})
    for figure in (quality_figure(points), curves_figure({"distill": history})):
        assert len(figure.layout.annotations) == len(figure.data) == len(names)
        assert len({trace.yaxis for trace in figure.data}) == len(names)
