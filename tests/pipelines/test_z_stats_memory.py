"""Latent statistics need the memory of one batch, however many images there are."""

import json
import os
import subprocess
import sys

SCRIPT = """
import json, resource, sys, tempfile
from pathlib import Path

import pandas, torch
from PIL import Image
from ssdd.data import EvalTransform, ImageDataset, Source
from ssdd.evaluation.latent_statistics import latent_statistics
from ssdd_encoder import Encoder, EncoderConfig


class Plain(Source):
    def listing(self):
        raise NotImplementedError

    read = listing

    def open(self, path):
        return Image.new("RGB", (32, 32), (int(path) % 256, int(path) // 256, 90))


def images(count):
    rows = {"path": [str(i) for i in range(count)], "split": "train", "width": 32, "height": 32, "bytes": 1}
    return ImageDataset(pandas.DataFrame({**rows, "sha256": ""}), Plain(), EvalTransform(im_size=32))


torch.set_num_threads(1)
config = EncoderConfig(
    base_channels=8, multipliers=(1,), resnets_per_level=1, patch_size=2, norm_groups=4, latent_channels=32
)
found = {}
with tempfile.TemporaryDirectory() as folder:
    file = Encoder(config).save_pretrained(Path(folder) / "encoder.safetensors")
    for count in (64, 3000):
        statistics = latent_statistics(file, images(count), batch_size=16, progress=False)
        assert statistics.count % count == 0
        elements = statistics.count * len(statistics.mean)
        found[count] = (elements, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
print(json.dumps(found))
"""


def test_memory_does_not_grow_with_the_images():
    # By default glibc keeps freed memory, now 5 and now 200 MB of it. A threshold makes it give that back.
    variables = os.environ | {"MALLOC_TRIM_THRESHOLD_": "1000000"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300, env=variables)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    elements, peak = found["3000"]
    growth = peak - found["64"][1]
    assert elements * 4 > 80e6  # what the latents would take
    assert growth < 12e6, f"{growth:,} bytes"
