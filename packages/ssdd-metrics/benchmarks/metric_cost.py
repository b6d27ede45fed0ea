"""The cost of each metric next to rFID's Inception forwards, in milliseconds per pair of images.

Run: `python benchmarks/metric_cost.py [--side 256] [--batch 32] [--repeats 5] [--threads 1] [--device cpu]`.
On a CPU, the processor time of the process counts, which other load disturbs little; on a GPU, the time that passes.
Inception has random weights, which cost as much as trained ones.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
import torch_fidelity.feature_extractor_inceptionv3 as library

from ssdd_metrics import FrechetDistance, MetricSuite, Moments, SlicedWasserstein, frechet_distance, to_uint8
from ssdd_metrics.networks import InceptionFeatures
from ssdd_metrics.registry import METRICS

EVALUATION = 50_000


def inception() -> InceptionFeatures:
    """Builds the network of FID without its weight file."""
    with (
        mock.patch.object(library, "load_state_dict_from_url", return_value={}),
        mock.patch.object(library.FeatureExtractorInceptionV3, "load_state_dict", return_value=None),
    ):
        network = library.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    return InceptionFeatures("random", "none", network)


def milliseconds(function: Callable[[], object], repeats: int, device: str) -> float:
    """Returns the median time of a call, after one to warm up."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    times = []
    for _ in range(repeats + 1):
        start = clock()
        function()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return 1000 * statistics.median(times[1:])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.batch, 3, options.side, options.side)
    clean = torch.rand(shape, device=options.device)
    decoded = to_uint8(clean + 0.05 * torch.randn_like(clean))
    clean = to_uint8(clean)
    features = torch.rand(options.batch, 2048, device=options.device)
    network, swd = inception().to(options.device), SlicedWasserstein().to(options.device)
    fid = FrechetDistance(2048).to(options.device)
    pixelwise = {name: metric.function for name, metric in METRICS.items() if metric.kind == "pixelwise"}
    offline = MetricSuite([*pixelwise, "swd"], device=options.device)

    rows: dict[str, Callable[[], object]] = {name: lambda f=f: f(clean, decoded) for name, f in pixelwise.items()}
    rows["swd"] = lambda: swd.update(clean, decoded)
    rows["rfid: float64 sums"] = lambda: fid.update(features, features)
    rows["suite of all above but the sums"] = lambda: offline.update(clean, decoded)
    rows["rfid: Inception, both sides"] = lambda: (network(clean), network(decoded))
    cost = {}
    for name, call in rows.items():
        cost[name] = milliseconds(call, options.repeats, options.device) / options.batch
        print(f"{name:34} {cost[name]:8.3f} ms per pair")
    a, b = (Moments.of(torch.rand(3000, 2048)) for _ in range(2))
    final = milliseconds(lambda: frechet_distance(a, b), 1, "cpu")
    print(f"{'rfid: the distance at the end':34} {final / 1000:8.1f} s once")
    rest = cost["suite of all above but the sums"] + cost["rfid: float64 sums"] + final / EVALUATION
    share = rest / cost["rfid: Inception, both sides"]
    print(f"all but network forwards, over {EVALUATION} images: {share:.1%} of rFID's forwards")


if __name__ == "__main__":
    main()
