"""EfficientNet-Lite0 from its package: the right network, and distances that order images as people do."""

import importlib.resources

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ssdd_metrics import MetricSuite, find_network, load_network
from ssdd_metrics.efficientnet import find_efficientnet, load_efficientnet, timm_key

CLASSES = {"chelsea.png": 285, "coffee.png": 967, "rocket.jpg": 657}  # Egyptian cat, espresso, missile


@pytest.fixture(scope="module")
def network():
    return load_network("efficientnet")


def photograph(name: str, side: int = 224) -> torch.Tensor:
    with importlib.resources.as_file(importlib.resources.files("skimage") / "data" / name) as file:
        image = Image.open(file).convert("RGB")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    image = image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", CLASSES)
def test_the_mapped_weights_recognise_photographs(network, name):
    images = photograph(name)
    with torch.no_grad():
        scores = network.network((255 * images - 127) / 128)
    assert scores.argmax().item() == CLASSES[name]


def test_the_distance_orders_distortions(network):
    images = photograph("coffee.png", 128)
    blurred = [
        F.interpolate(F.avg_pool2d(images, factor), size=128, mode="bicubic").clamp(0, 1) for factor in (2, 4, 8)
    ]
    distances = [network(images, other).item() for other in (images, *blurred)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] > 0.01


def test_images_of_a_batch_do_not_influence_each_other(network):
    images, other = torch.cat([photograph(name, 64) for name in CLASSES]), torch.rand(3, 3, 64, 64)
    alone = [network(images[i : i + 1], other[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(network(images, other), torch.cat(alone), atol=1e-5, rtol=1e-4)
    assert network(images).shape == (3, network.features)


def test_the_suite_measures_both_under_names_of_their_own(network):
    images = torch.cat([photograph(name, 64) for name in CLASSES] * 2)
    suite = MetricSuite("packaged", networks={"efficientnet": network})
    suite.update(
        images, (images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    )
    figures = suite.compute()
    assert figures["efficientnet_distance"] > 0
    assert figures["frechet_efficientnet"] > 0
    assert not {"rfid", "lpips_alex", "lpips_vgg"} & figures.keys()
    assert suite.report()["protocol"]["weights"]["efficientnet-lite0"].startswith("57934424")


def test_other_files_are_refused(tmp_path):
    assert find_network("efficientnet") == find_efficientnet()
    (tmp_path / "other.pth").write_bytes(b"weights")
    with pytest.raises(ValueError, match="with SHA-256 57934424"):
        load_efficientnet(tmp_path / "other.pth")
    with pytest.raises(ValueError, match="found no file"):
        load_efficientnet(tmp_path / "missing.pth")
    with pytest.raises(KeyError):
        timm_key("features.0.weight")


def test_small_images_are_refused(network):
    with pytest.raises(ValueError, match="32"):
        network(torch.rand(1, 3, 31, 64))
