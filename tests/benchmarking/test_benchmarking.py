"""The benchmark is fair and its counts are right: equal sides, counted work, ratios of the same round."""

import functools
import math
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
import yaml

from ssdd.benchmark_parameters import BenchmarkParameters, DecodeSweep, TrainingSweep
from ssdd.benchmarking import decoder_speed, timing
from ssdd.benchmarking.benchmark_figures import SIDES, quality_figure, speed_figure
from ssdd.benchmarking.cost import count_work, held_memory
from ssdd.benchmarking.decoder_speed import best_seconds, kl_decoder, make_sides, measure_decoding
from ssdd.benchmarking.performance_page import performance_page
from ssdd.benchmarking.served_kl import ServedKL
from ssdd.benchmarking.timing import time_sides
from ssdd.benchmarking.training_speed import make_losses, measure_training
from ssdd.integrations.dense_decoder import DenseForm
from ssdd_decoder import Decoder

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
MACHINE = {
    "device": "a processor",
    "kind": "cpu",
    "cores": 2,
    "threads": 1,
    "torch": "2",
    "python": "3",
    "copy_bandwidth": 1e10,
    "product_rate": {"float32": 1e11},
}
TINY = {
    f"{name}{what}": value
    for name in ("", "checkpointing_", "distillation_")
    for what, value in (("pixels", 16), ("batch_size", 1))
}
SWEEP = DecodeSweep(sizes=("debug",), pixels=(32, 64), sides=("ssdd", "dense"), rounds=2)


@pytest.mark.parametrize("size", ["debug", "quickstart", "XS"])
def test_dense_form_computes_the_same(size):
    torch.manual_seed(0)
    decoder = Decoder(size).double()
    for parameter in decoder.parameters():  # as initialised, whole branches are zero
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    scale = decoder.config.downscale
    x_t, noise = torch.randn(2, 2, 3, 5 * scale, 3 * scale).double().unbind()
    z, t = torch.randn(2, decoder.config.latent_channels, 5, 3).double(), torch.tensor([0.3, 0.9]).double()
    dense = DenseForm(decoder)
    gradients = []
    for network in (decoder, dense):
        out = network(x_t, t, z)
        gradients.append((out, *torch.autograd.grad(out.square().mean(), list(decoder.parameters()))))
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(decoder.decode(z, 3, noise), dense.decode(z, 3, noise), atol=1e-6, rtol=0)


def test_kl_decoder_is_the_one_of_stable_diffusion():
    from ssdd.benchmarking.decoder_speed import kl_decoder

    assert sum(p.numel() for p in kl_decoder().parameters()) == 49_490_199  # 20 of them are post_quant_conv's


@pytest.mark.slow
def test_each_case_is_compiled_for_its_own_shapes(monkeypatch):
    """Like a case in a process of its own, and not for the shapes of all cases so far."""
    import ssdd_decoder.decoder

    def count(graph, inputs):
        graphs.append(all(isinstance(each, torch.Tensor) for each in inputs))  # a dynamic size would be an input too
        return graph

    graphs: list[bool] = []
    compiled = functools.cache(functools.partial(torch.compile, backend=count))
    monkeypatch.setattr(ssdd_decoder.decoder, "_compiled", compiled)
    sweep = DecodeSweep(sizes=("debug",), pixels=(32, 64, 96), sides=("ssdd_compiled",), rounds=1)
    measure_decoding((sweep,), MACHINE, progress=False)
    assert graphs == [True] * 6  # the latent's part and a step, each time


def test_sides_alternate_and_ratios_are_of_the_same_round(monkeypatch):
    clock, calls = iter(range(10_000)), []
    now = 0.0

    def work(name: str, seconds: float) -> None:
        nonlocal now
        calls.append(name)
        now += seconds * (1 + next(clock) // 4)  # the machine gets slower from round to round

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    rounds = []
    found = time_sides({"a": lambda: work("a", 1.0), "b": lambda: work("b", 3.0)}, "a", 3, CPU, rounds.append)
    assert calls == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert len(found["b"].seconds) == 3 == sum(rounds)
    assert found["a"].ratios == [1.0] * 3
    assert found["b"].ratios == [3.0] * 3
    assert found["b"].summary()["ratio"] == 3.0
    assert found["b"].summary()["seconds_q25"] < found["b"].summary()["seconds_q75"]


def test_counted_work_of_a_product():
    a, b = torch.randn(30, 40), torch.randn(40, 50)
    work = count_work(lambda: a @ b)
    assert work.flops == 2 * 30 * 40 * 50
    assert work.bytes == 4 * (30 * 40 + 40 * 50 + 30 * 50)
    assert count_work(lambda: a.t()[3:].unsqueeze(0)).bytes == 0  # views move nothing
    slow_memory = MACHINE | {"product_rate": {"float32": 1e6}, "copy_bandwidth": 1e3}
    assert best_seconds(work, "float32", slow_memory | {"copy_bandwidth": 1e9}) == 0.12
    assert best_seconds(work, "float32", slow_memory) == 18.8
    assert best_seconds(work, "float32", slow_memory | {"kind": "cuda"}) == 0.12  # its kernels fuse operators


def test_peak_memory_is_what_is_there_at_most():
    """In a process of its own: threads of other tests would count."""
    size = 2**26
    program = f"""
import torch
from ssdd.benchmarking.cost import peak_memory

def call() -> None:
    for _ in range(3):  # one after another
        torch.ones({size}, dtype=torch.uint8)

print(peak_memory(call, torch.device("cpu")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    if done.stdout.strip() == "None":
        pytest.skip("this system does not report a process's peak memory")
    assert 0.9 * size < int(done.stdout) < 2 * size


def test_decoding_table_figure_and_page():
    rows = pandas.DataFrame(measure_decoding((SWEEP,), MACHINE))
    assert rows[["pixels", "side"]].values.tolist() == [[32, "ssdd"], [32, "dense"], [64, "ssdd"], [64, "dense"]]
    assert (rows["seconds"] > 0).all()
    assert (rows.loc[rows["side"] == "ssdd", "ratio"] == 1).all()
    ours, dense = rows[rows["side"] == "ssdd"], rows[rows["side"] == "dense"]
    assert (ours["flops"].to_numpy() < dense["flops"].to_numpy()).all()
    figure = speed_figure(rows)
    assert [len(trace.x) for trace in figure.data] == [2, 2, 2, 2]
    training = pandas.DataFrame([{**SOME_STEP, "side": side} for side in ("ssdd", "dense")])
    page = performance_page(MACHINE, rows, training)
    assert "| debug | 64 | 1 | 1 | float32 | dense |" in page
    assert "| step | S | 64 | 1 | float32 | dense | 2.000 | 1.50 [1.25, 1.75] | 0.25 | 0.50 | 3 |" in page


SOME_STEP = {
    "comparison": "step",
    "size": "S",
    "pixels": 64,
    "batch": 1,
    "dtype": "float32",
    "seconds": 2.0,
    "ratio": 1.5,
    "ratio_q25": 1.25,
    "ratio_q75": 1.75,
    "held_bytes": 2**28,
    "peak_bytes": 2**29,
    "rounds": 3,
}


def test_training_steps_of_all_sides(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # in seconds
    sweep = TrainingSweep(
        size="debug",
        pixels=16,
        batch_size=2,
        sides=("ssdd", "ssdd_compiled", "dense"),
        checkpointing_pixels=16,
        distillation_pixels=16,
        teacher_steps=3,
        rounds=1,
    )
    rows = pandas.DataFrame(measure_training(sweep, CPU)).set_index("side")
    assert list(rows.index) == ["ssdd", "ssdd_compiled", "dense", "kept", "checkpointed", "live", "cached"]
    assert rows["flops"]["checkpointed"] > rows["flops"]["kept"]  # computed twice
    assert rows["flops"]["live"] / rows["flops"]["cached"] == pytest.approx(2, abs=0.1)  # (3 + 3) / 3 forwards
    losses, finish = make_losses(sweep, "float64", 16, 2, CPU)
    for other in ("dense", "ssdd_compiled"):
        torch.testing.assert_close(losses["ssdd"](), losses[other](), rtol=1e-6, atol=0)
    before = finish(losses["cached"]())
    assert losses["cached"]() < before  # one step of the optimiser


def test_memory_held_is_that_of_the_result():
    held = held_memory(lambda: torch.ones(2**24), CPU)
    passing = held_memory(lambda: torch.ones(2**24).sum(), CPU)
    if held is None or passing is None:
        pytest.skip("this system does not report resident memory")
    assert held > 0.9 * 2**26 > 10 * passing


def test_checkpointing_keeps_less_than_half():
    decoder = Decoder("XS")

    def kept(checkpointing: bool) -> int:
        decoder.gradient_checkpointing = checkpointing
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            out = decoder(torch.randn(1, 3, 64, 64), torch.tensor([0.5]), torch.randn(1, 4, 8, 8))
        weights = {p.untyped_storage().data_ptr() for p in decoder.parameters()}
        assert out.requires_grad
        return sum(size for place, size in sizes.items() if place not in weights)

    assert kept(True) < 0.5 * kept(False)


def test_quality_figure_has_a_point_per_model_and_steps():
    table = pandas.DataFrame(
        {
            "model": ["teacher", "teacher", "student"],
            "steps": [8, 1, 1],
            "psnr": [24.0, 25.0, 26.0],
            "images_per_second": [1.0, 8.0, 8.0],
        }
    )
    figure = quality_figure(table)
    assert {trace.name: list(trace.text) for trace in figure.data} == {
        "teacher": ["8 steps", "1 step"],
        "student": ["1 step"],
    }
    assert math.isclose(figure.data[1].y[0], 26.0)


def test_unknown_sides_and_sizes_are_refused():
    with pytest.raises(ValueError, match="sides"):
        BenchmarkParameters(decoding=({"sides": ["quick"]},))
    with pytest.raises(ValueError, match="sizes"):
        BenchmarkParameters(decoding=({"sizes": ["Q"]},))
    assert list(make_sides(("dense", "ssdd"), "debug", torch.float32, 16, 1, 1, CPU)) == ["dense", "ssdd"]


@pytest.mark.slow
def test_the_cases_of_the_gpu_rehearsed_on_a_cpu_with_small_networks():
    parameters = yaml.safe_load((ROOT / "conf/gpu/parameters.yml").read_text(encoding="utf-8"))["benchmark"]
    small = {"sizes": ["debug"], "pixels": [8], "dtypes": ["float32"], "batch_sizes": [1], "rounds": 1}
    cases, sides = [], set()
    for sweep in parameters["decoding"]:
        sides |= set(sweep["sides"])
        # Compiling takes minutes here, and the recorded sides need a GPU.
        eager = list(dict.fromkeys(re.sub("_recorded|_compiled", "", side) for side in sweep["sides"]))
        cases.append(DecodeSweep(**sweep | small | {"sides": eager}))
    rows = measure_decoding(tuple(cases), MACHINE, progress=False)
    assert {row["side"] for row in rows} == {"ssdd", "kl", "kl_served"}
    assert all(row["finite"] for row in rows)
    # The names of the others at least are known, to the figure too.
    assert sides <= set(SIDES)
    training = TrainingSweep(**parameters["training"] | {"size": "debug", "dtypes": ["float32"], "rounds": 1} | TINY)
    training = training.model_copy(update={"sides": ("ssdd", "dense")})
    page = performance_page(MACHINE, pandas.DataFrame(rows), pandas.DataFrame(measure_training(training, CPU)))
    assert page.count("kl_served") == sum("kl_served" in case.sides for case in cases)


def test_the_served_kl_decoder_computes_the_same():
    decoder = kl_decoder().eval()
    z = torch.randn(1, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ServedKL(*decoder)(z), decoder(z), atol=1e-4, rtol=0)


def test_a_case_that_does_not_fit_is_left_out(monkeypatch, caplog):
    def out_of_memory(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(decoder_speed, "make_sides", out_of_memory)
    assert measure_decoding((SWEEP,), MACHINE, progress=False) == []
    assert caplog.text.count("memory is too small") == 2
