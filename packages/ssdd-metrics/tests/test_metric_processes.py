"""One process equals two: each evaluates every second image, saves its state, and the states are merged."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ssdd_metrics import MetricSuite

WORKER = """
import sys
from safetensors.torch import load_file, save_file
from ssdd_metrics import MetricSuite
path, rank, world = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
images = load_file(f"{path}/images.safetensors")
suite = MetricSuite("offline")
for index in range(rank, len(images["clean"]), world):
    one = slice(index, index + 1)
    suite.update(images["clean"][one], images["decoded"][one], [index])
save_file(suite.state(), f"{path}/state-{rank}-of-{world}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(tmp_path):
    clean = torch.rand(9, 3, 32, 32)
    save_file({"clean": clean, "decoded": (clean + 0.1 * torch.randn_like(clean))}, tmp_path / "images.safetensors")
    numbers = {}
    for world in (1, 2):
        workers = [
            subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), str(rank), str(world)])
            for rank in range(world)
        ]
        assert [worker.wait(timeout=300) for worker in workers] == [0] * world
        suite = MetricSuite("offline")
        for rank in reversed(range(world)):  # the order must not matter
            suite.merge(load_file(tmp_path / f"state-{rank}-of-{world}.safetensors"))
        numbers[world] = suite.compute()
        assert suite.protocol.images == 9
    exact = numbers[1].keys() - {"frechet_random_conv"}
    assert {name: numbers[1][name] for name in exact} == {name: numbers[2][name] for name in exact}
    assert numbers[1]["frechet_random_conv"] == pytest.approx(numbers[2]["frechet_random_conv"], rel=1e-9)
