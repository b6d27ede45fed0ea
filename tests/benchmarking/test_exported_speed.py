"""Exported decoders in the benchmark: the same pictures, losses that are losses, and sides that are not installed."""

import importlib.util
import math

import numpy as np
import pandas
import pytest

from ssdd.benchmark_parameters import ExportedSweep
from ssdd.benchmarking import exported_speed
from ssdd.benchmarking.exported_decoders import ExportedDecoder, open_exported
from ssdd.benchmarking.exported_sides import SIDES
from ssdd.benchmarking.exported_speed import measure_exported
from ssdd.benchmarking.int8_weights import store_int8
from ssdd.benchmarking.performance_page import exported_page
from ssdd.integrations.graph_files import run_onnx, run_openvino

MACHINE = {"device": "a processor", "cores": 2, "threads": 1, "torch": "2", "python": "3"}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A small trained decoder, and its file."""
    decoder = open_exported("demo")
    return decoder, decoder.export(tmp_path_factory.mktemp("exported"))


@pytest.mark.slow
def test_int8_weights_make_a_small_file_and_near_pictures_in_both_runtimes(demo, tmp_path):
    decoder, file = demo
    store_int8(file, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size < 0.4 * file.stat().st_size
    inputs = decoder.graph.draw(2, 6, 5)
    (plain,) = decoder.graph.eager(*inputs)
    for run in (run_onnx(tmp_path / "small.onnx"), run_openvino(tmp_path / "small.onnx")):
        (image,) = run(*inputs)
        error = (image - plain).square().mean().sqrt() / plain.square().mean().sqrt()
        assert 1e-5 < error < 0.05  # 8 bits


@pytest.mark.slow
def test_bfloat16_and_a_known_size_in_openvino(demo):
    decoder, file = demo
    inputs = decoder.graph.draw(1, 4, 4)
    (plain,) = decoder.graph.eager(*inputs)
    shapes = {"z": (1, 16, 4, 4), "noise": (1, 3, 32, 32)}
    (image,) = run_openvino(file, threads=1, precision="bf16", shapes=shapes)(*inputs)
    assert (image - plain).abs().max() < 0.1 * plain.abs().max()


def test_every_level_of_int8_is_the_nearest():
    from ssdd.benchmarking.int8_weights import _quantized

    values = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    values[2] = 0
    levels, scales = _quantized(values, 0)
    assert levels.dtype == np.int8
    assert np.abs(levels).max() == 127
    error = np.abs(levels * scales[:, None, None] - values)
    assert (error <= 0.5001 * scales[:, None, None]).all()


@pytest.mark.slow
def test_rows_and_page_of_a_trained_and_a_random_decoder(demo, monkeypatch):
    monkeypatch.setattr(ExportedDecoder, "export", lambda *_: demo[1])
    monkeypatch.setattr(exported_speed, "HELD_OUT_PHOTOGRAPHS", ("moose.jpg",))
    monkeypatch.setattr(exported_speed, "why_slow", lambda *_: "")  # the same rows on every processor
    sides = ("eager", "eager_bfloat16", "openvino")
    sweeps = (
        ExportedSweep(decoders=("demo",), pixels=(64,), sides=sides, rounds=1),
        ExportedSweep(decoders=("debug",), pixels=(32,), sides=("eager",), rounds=2),
    )
    rows = pandas.DataFrame(measure_exported(sweeps, threads=1, progress=False))
    assert rows["side"].tolist() == [*sides, "eager"]
    assert (rows["seconds"] > 0).all()
    assert rows["ratio"][0] == rows["ratio"][3] == 1
    assert rows["loss"][0] == 0
    assert 1e-5 < abs(rows["loss"][1]) < 0.2
    assert abs(rows["loss"][2]) < 1e-4
    assert math.isnan(rows["loss"][3])  # of random weights, there is nothing to lose
    assert rows["file_bytes"].isna().tolist() == [True, True, False, True]
    page = exported_page(MACHINE, rows)
    assert "| demo | 64 | OpenVINO | float32 |" in page
    assert "* Fastest for demo at 64 px: " in page


def test_a_side_that_is_not_installed_is_left_out_with_the_reason(monkeypatch, caplog):
    found = importlib.util.find_spec
    hidden = {"onnxruntime", "openvino"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in hidden else found(name, *a))
    sweep = ExportedSweep(decoders=("debug",), pixels=(16,), sides=("eager", "onnxruntime", "openvino_int8"), rounds=1)
    rows = pandas.DataFrame(measure_exported((sweep,), threads=1, progress=False))
    assert rows["seconds"].notna().tolist() == [True, False, False]
    assert "install the extra ssdd[onnx]" in caplog.text
    page = exported_page(MACHINE, rows)
    assert "* Left out: export to onnx needs onnxruntime: install the extra ssdd[onnx]" in page
    assert page.count("| debug |") == 1


def test_a_side_with_too_great_a_loss_is_not_recommended():
    figures = {"ratio": 1.0, "ratio_q25": 1.0, "ratio_q75": 1.0, "file_bytes": math.nan, "rounds": 1, "missing": ""}
    rows = [
        {"decoder": "demo", "pixels": 64, "side": side, "seconds": seconds, "loss": loss} | figures
        for side, seconds, loss in (("eager", 3.0, 0.0), ("onnxruntime_dynamic", 1.0, 0.2), ("openvino", 2.0, 0.1))
    ]
    page = exported_page(MACHINE, pandas.DataFrame(rows))
    assert "* Fastest for demo at 64 px: OpenVINO, float32." in page


def test_every_side_has_a_title():
    from typing import get_args

    from ssdd.benchmark_parameters import ExportedSide

    assert set(SIDES) == set(get_args(ExportedSide))
