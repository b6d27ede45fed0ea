"""An evaluation of ImageNet's size in memory that does not grow: neither images nor features are kept."""

import json
import subprocess
import sys

import pytest

IMAGES, BATCH, FEATURES = 50_000, 250, 2048
SCRIPT = f"""
import json, resource
import torch
from torch import nn
from ssdd_metrics import MetricSuite

class Projection(nn.Module):
    "As many features as Inception has, at little cost."
    features = {FEATURES}

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(3 * 8 * 8, self.features, generator=generator))

    def forward(self, images):
        return images.float().flatten(1) @ self.weight

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
metrics = ["mse", "mae", "psnr", "gradient_energy_ratio", "swd", "rfid"]
suite = MetricSuite(metrics, networks={{"inception": Projection()}})
peaks = []
for start in range(0, {IMAGES}, {BATCH}):
    clean = torch.randint(0, 256, ({BATCH}, 3, 8, 8), generator=generator, dtype=torch.uint8)
    suite.update(clean, clean.flip(0), range(start, start + {BATCH}))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(json.dumps([peaks, len(suite.per_image()["psnr"]), int(suite.state()["sum.rfid.reference_count"])]))
"""


@pytest.mark.slow
def test_fifty_thousand_images_take_the_memory_of_a_batch_and_the_table():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    peaks, rows, counted = json.loads(done.stdout)
    assert rows == counted == IMAGES
    table = 5 * 8 * IMAGES  # four metrics and the images' numbers
    growth = peaks[-1] - peaks[10]
    assert growth < 4 * table < 2 * 3 * 8 * 8 * IMAGES < 4 * FEATURES * IMAGES, f"{growth:,} bytes"
