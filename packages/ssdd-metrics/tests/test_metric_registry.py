"""One entry in the table of metrics is all that a new metric takes."""

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics import Metric as TorchMetric

from ssdd_metrics import MetricSuite, compute_references, extremes, networks_of
from ssdd_metrics.pretrained import NETWORKS
from ssdd_metrics.protocol import Protocol
from ssdd_metrics.registry import METRICS, Metric, metric_names, reported_metrics


class Means(nn.Module):
    """Stands in for a metric network: channel means as features, or the difference of two images."""

    features = 3

    def forward(self, *images):
        a, *b = (side.float().mean((2, 3)) for side in images)
        return (a - b[0]).abs().mean(1) if b else a


class Offset(TorchMetric):
    """A metric of two sets: the difference of their means."""

    full_state_update = False

    def __init__(self):
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, reference, reconstruction):
        self.total += (reconstruction.float() - reference.float()).sum()
        self.count += reference.numel()

    def compute(self):
        return self.total / self.count


def error(reference, reconstruction):
    return (reference.float() - reconstruction.float()).abs().flatten(1).mean(1)


ENTRIES = [
    Metric("new", "new", "lower", 1, "pixelwise", error),
    Metric("new", "new", "lower", 4, "pairwise", network="lpips_alex"),
    Metric("new", "new", "lower", 1, "frechet", network="inception"),
    Metric("new", "new", "near 1", 1, "distribution", Offset),
]
EXPECTED = {"pixelwise": 20.0, "pairwise": 20 / 255, "frechet": 3 * 20.0**2, "distribution": 20.0}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind)
def test_an_entry_is_measured_merged_and_reported(entry, monkeypatch):
    monkeypatch.setitem(METRICS, "new", entry)
    assert "new" in metric_names("full")
    assert ("new" in metric_names("offline")) == (not entry.network)
    assert networks_of(["psnr", "new"]) == ((entry.network,) if entry.network else ())

    networks = {entry.network: Means()}
    reference = torch.randint(0, 200, (4, 3, 8, 8), dtype=torch.uint8)
    suites = [MetricSuite(["psnr", "new"], networks=networks) for _ in range(2)]
    for suite, half in zip(suites, (slice(0, 2), slice(2, 4)), strict=True):
        suite.update(reference[half], reference[half] + 20, range(4)[half])
    suites[0].merge(suites[1].state())
    assert suites[0].compute()["new"] == pytest.approx(EXPECTED[entry.kind], rel=1e-5)

    report, table = suites[0].report(), suites[0].per_image()
    assert ("new" in table) == ("new" in report["intervals"]) == (entry.kind in ("pixelwise", "pairwise"))
    assert table.get("new", np.zeros(0)).dtype == np.float64
    assert reported_metrics(["new"]) == [entry]
    references = compute_references([reference], ["new"], Protocol(), networks)
    assert set(references) == ({"new"} if entry.kind == "frechet" else set())


def test_metrics_of_one_network_share_it(monkeypatch):
    monkeypatch.setitem(METRICS, "new", Metric("new", "new", "lower", 1, "frechet", network="inception"))
    assert networks_of(["rfid", "new"]) == ("inception",)
    network = Means()
    assert set(MetricSuite(["rfid", "new"], networks={"inception": network}).networks) == {"inception"}


@pytest.mark.parametrize(("better", "best"), [("higher", 9), ("lower", 7), ("near 1", 8)])
def test_the_best_images_follow_the_direction(better, best, monkeypatch):
    monkeypatch.setitem(METRICS, "new", Metric("new", "new", better, 1, "pixelwise", error))
    table = {"image": np.array([7, 8, 9]), "new": np.array([0.2, 1.1, np.inf])}
    assert extremes(table, "new", 1)[0].tolist() == [best]


def test_entries_are_complete():
    for name, metric in METRICS.items():
        assert name == metric.name
        assert (metric.function is None) == (metric.kind in ("pairwise", "frechet")) == bool(metric.network), name
    needed = {metric.network for metric in METRICS.values()} - {"", "random_conv"}
    assert needed == set(NETWORKS)
    extras = [METRICS[name].extra for name in ("psnr", "frechet_random_conv", "lpips_vgg", "rfid", "dreamsim")]
    assert extras == [None, None, "perceptual", "fid", "dreamsim"]


def test_the_side_of_the_wasserstein_patches_is_that_of_the_table():
    from ssdd_metrics.swd import PATCH

    assert METRICS["swd"].min_side == PATCH
