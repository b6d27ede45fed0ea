"""A number format that the processor computes far slower than float32 is named, and no benchmark waits for it."""

import pandas
import pytest
import torch

from ssdd import number_formats
from ssdd.benchmark_parameters import DecodeSweep, ExportedSweep, TrainingSweep
from ssdd.benchmarking.decoder_speed import measure_decoding
from ssdd.benchmarking.exported_speed import measure_exported
from ssdd.benchmarking.machine import describe_machine
from ssdd.benchmarking.training_speed import measure_training
from ssdd.number_formats import number_format, slowdown, warn_once, without_slow

CPU = torch.device("cpu")
REASON = "bfloat16 takes about 12 times as long as float32 on this processor"
SMALL = {
    f"{name}{what}": value
    for name in ("", "checkpointing_", "distillation_")
    for what, value in (("pixels", 16), ("batch_size", 1))
}


@pytest.fixture
def without_bfloat16(monkeypatch):
    """A processor on which a convolution in bfloat16 takes twelve times as long."""
    monkeypatch.setattr(number_formats, "_least_time", lambda dtype: 1.2 if dtype == torch.bfloat16 else 0.1)
    for cached in (slowdown, warn_once):
        cached.cache_clear()
    yield
    slowdown.cache_clear()


def test_a_slow_format_is_used_with_a_warning(without_bfloat16, caplog):
    assert number_format("float32", CPU) == torch.float32
    assert not caplog.messages
    assert number_format("bfloat16", torch.device("cuda")) == torch.bfloat16
    assert not caplog.messages
    for _ in range(2):
        assert number_format("bfloat16", CPU) == torch.bfloat16
    assert caplog.messages == [f"{REASON}: choose float32, unless memory is short"]


def test_a_slow_format_is_left_out_unless_it_is_the_only_one(without_bfloat16, caplog):
    assert without_slow(("float32", "bfloat16"), CPU) == ["float32"]
    assert caplog.messages == [f"left out: {REASON}"]
    assert without_slow(("bfloat16",), CPU) == ["bfloat16"]


def test_this_processor_is_measured_and_keeps_its_threads():
    slowdown.cache_clear()
    threads = torch.get_num_threads()
    assert 0.1 < slowdown(torch.bfloat16, "cpu") < 1000
    assert slowdown(torch.float32, "cpu") == slowdown(torch.bfloat16, "cuda") == 1
    assert torch.get_num_threads() == threads


def test_benchmarks_leave_a_slow_format_out(without_bfloat16, monkeypatch, caplog):
    monkeypatch.setattr("ssdd.benchmarking.machine.MATRIX_SIDE", {"cpu": 64})
    monkeypatch.setattr("ssdd.benchmarking.machine.CONVOLUTION", {"cpu": (1, 8, 16, 16)})
    machine = describe_machine(CPU, {"float32", "bfloat16"})
    assert list(machine["product_rate"]) == ["float32"]
    formats = ("float32", "bfloat16")
    sweep = DecodeSweep(sizes=("debug",), pixels=(32,), dtypes=formats, sides=("ssdd",), rounds=1)
    assert [row["dtype"] for row in measure_decoding((sweep,), machine, progress=False)] == ["float32"]
    training = TrainingSweep(size="debug", dtypes=formats, rounds=1, teacher_steps=1, **SMALL)
    rows = measure_training(training, CPU, progress=False)
    assert {row["dtype"] for row in rows} == {"float32"}
    exported = ExportedSweep(decoders=("debug",), pixels=(16,), sides=("eager", "eager_bfloat16"), rounds=1)
    table = pandas.DataFrame(measure_exported((exported,), threads=1, progress=False))
    assert table["seconds"].notna().tolist() == [True, False]
    assert table["missing"].tolist() == ["", REASON]
    assert f"left out: {REASON}" in caplog.messages
