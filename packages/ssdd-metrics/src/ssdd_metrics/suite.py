"""All metrics of an evaluation in one object: images in, numbers and their protocol out.

Legend: B batch, H W pixels.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssdd_metrics.bootstrap import bootstrap_interval, finite_mean
from ssdd_metrics.frechet import FrechetDistance
from ssdd_metrics.images import check_reconstruction_range, check_reference_range, check_shapes, to_uint8
from ssdd_metrics.precision import strict_float32
from ssdd_metrics.pretrained import get_network, identity, network_input
from ssdd_metrics.protocol import Protocol
from ssdd_metrics.reference import ReferenceStatistics, reference_protocols
from ssdd_metrics.registry import METRICS, Metric, metric_names
from ssdd_metrics.tables import KEY, Table, merge_tables


class MetricSuite:
    """Compares reconstructions with references, batch by batch, in memory that does not grow with features.

    Every metric sees the same 8-bit images (`to_uint8`). Per-image values are kept: 8 bytes per image and metric.

    Args:
        metrics: "offline" (no pretrained network), "packaged" (also EfficientNet-Lite0, whose weights are in a Python
            package), "full" (also LPIPS, rFID and FDD, but not EfficientNet-Lite0), or names of `registry.METRICS`.
        protocol: the caller's knowledge of data and model; printed and stored with the numbers.
        networks: loaded networks by name ("inception", "dinov2", "lpips_alex", "lpips_vgg", "dreamsim",
            "efficientnet"), for weights at other places, or to share one with a training loss. The others are loaded
            from the usual places.
        references: stored reference statistics by Frechet metric ("rfid", "fdd", "frechet_random_conv",
            "frechet_efficientnet"). With them, the reference images do not pass that network again.
        device: of metrics and pretrained networks.

    Raises:
        ValueError: an unknown metric, or statistics for none of the metrics.
        NetworkUnavailable: a pretrained network's weights are neither on this machine nor to be fetched.
    """

    def __init__(
        self,
        metrics: str | Sequence[str] = "offline",
        protocol: Protocol | None = None,
        networks: Mapping[str, nn.Module] | None = None,
        references: Mapping[str, ReferenceStatistics] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.metrics = metric_names(metrics)
        self.device = torch.device(device)
        self._declared = protocol or Protocol()
        entries = [METRICS[name] for name in self.metrics]
        references = references or {}
        foreign = references.keys() - {metric.name for metric in entries if metric.kind == "frechet"}
        if foreign:
            raise ValueError(f"expected reference statistics for Frechet metrics of this suite, got {sorted(foreign)}")
        # By network and not by metric: two metrics of one network share it.
        needed = dict.fromkeys(metric.network for metric in entries if metric.network)
        self.networks = {name: get_network(name, networks or {}).to(self.device) for name in needed}
        self._distances = {
            metric.name: self._make_distance(metric, references.get(metric.name)).to(self.device)
            for metric in entries
            if not metric.per_image
        }
        self._rows: list[Table] = []

    def update(self, reference: Tensor, reconstruction: Tensor, images: Any = None) -> None:
        """Adds a batch of pairs.

        Args:
            reference: (B, 3, H, W), uint8 or in [0, 1].
            reconstruction: same shape; overshoot beyond [0, 1] is clamped.
            images: (B,) integers, each image's number in the data set; needed where several processes share
                the work. The default counts from zero.

        Raises:
            ValueError: shapes that differ, no RGB, NaN, a wrong range, or an image too small for a chosen
                metric.
        """
        # All checks come before anything is added: a caller who leaves a refused batch out still gets right numbers.
        check_shapes(reference, reconstruction)
        _check_sides(self.metrics, *reference.shape[-2:])
        if reference.shape[1] != 3:
            raise ValueError(f"expected RGB images (B, 3, H, W), got {tuple(reference.shape)}: repeat grey channels")
        check_reference_range(reference)
        clean, decoded = (to_uint8(side.detach().to(self.device)) for side in (reference, reconstruction))
        # After `to_uint8`, which refuses NaN: comparisons with NaN are false, so this check would let it pass.
        check_reconstruction_range(reference, reconstruction)
        rows: Table = {KEY: self._numbers(images, len(clean))}
        with torch.no_grad(), strict_float32(self.device):
            for name in self.metrics:
                if METRICS[name].per_image:
                    # A caller's own network may return bfloat16, which numpy lacks.
                    rows[name] = self._values(METRICS[name], clean, decoded).double().cpu().numpy()
            for name, distance in self._distances.items():
                self._update_distance(METRICS[name], distance, clean, decoded)
        self._rows.append(rows)

    def compute(self) -> dict[str, float]:
        """Returns means over images, and distances between the two sets.

        A mean is over the finite values; it is infinite only where all values are. For each metric that can be
        infinite, a count such as `psnr_infinite` stands next to it.

        Raises:
            ValueError: no pair was added.
        """
        table = self.per_image()
        if not len(table[KEY]):
            raise ValueError("expected at least one pair of images, got none: call update first")
        results: dict[str, float] = {}
        for name in self.metrics:
            if name in self._distances:
                results[name] = self._distance(name)
                continue
            results[name] = finite_mean(table[name])
            if METRICS[name].can_be_infinite:
                results[f"{name}_infinite"] = int(np.isinf(table[name]).sum())
        return results

    def per_image(self) -> Table:
        """Returns one row per image, ordered by its number: the column `image` and one for each per-image metric."""
        columns = [KEY, *(name for name in self.metrics if name not in self._distances)]
        # An empty table still has all columns: a process without images must merge like any other.
        empty: Table = {name: np.zeros(0, np.int64 if name == KEY else np.float64) for name in columns}
        return merge_tables([empty, *self._rows])

    def merge(self, other: "MetricSuite | Mapping[str, Tensor]") -> None:
        """Adds the images of another suite of the same metrics, or of its `state()` from another process.

        Raises:
            ValueError: the metrics differ, or both suites have seen the same image.
        """
        state = other.state() if isinstance(other, MetricSuite) else other
        # The keys name the metrics; by position, a suite of other metrics would merge without an error.
        if state.keys() != self.state().keys():
            raise ValueError(f"expected a state of the metrics {self.metrics}, got {sorted(state)}: build suites alike")
        rows = {key.removeprefix("rows."): value.cpu().numpy() for key, value in state.items() if "rows." in key}
        self._rows = [merge_tables([self.per_image(), rows])]
        for name, distance in self._distances.items():
            prefix = f"sum.{name}."
            distance.merge_state({k.removeprefix(prefix): v.to(self.device) for k, v in state.items() if prefix in k})

    def state(self) -> dict[str, Tensor]:
        """Returns everything accumulated, as tensors, fit for safetensors or a collective.

        `sum.*` of several suites add up; `rows.*` (per-image columns) concatenate. `merge` does both.
        """
        rows = {f"rows.{name}": torch.from_numpy(values) for name, values in self.per_image().items()}
        sums = {
            f"sum.{name}.{key}": getattr(distance, key)
            for name, distance in self._distances.items()
            for key in distance.metric_state
        }
        return {**rows, **sums}

    def references(self) -> dict[str, ReferenceStatistics]:
        """Returns the reference side of each Frechet metric, for `save_references` or later suites' `references`."""
        protocols = reference_protocols(self.metrics, self._declared, self.networks)
        return {
            name: ReferenceStatistics(distance.reference or distance.moments("reference"), protocols[name])
            for name, distance in self._distances.items()
            if isinstance(distance, FrechetDistance)
        }

    @property
    def protocol(self) -> Protocol:
        """The caller's statements, completed by what the suite has counted and loaded."""
        return dataclasses.replace(
            self._declared,
            images=sum(len(rows[KEY]) for rows in self._rows),
            metrics=self.metrics,
            weights=dict(identity(name, network) for name, network in self.networks.items()),
        )

    def report(self, confidence: float = 0.95) -> dict[str, Any]:
        """Returns numbers, confidence intervals of the means, and protocol, in one dict of plain values."""
        table = self.per_image()
        intervals = {
            name: dataclasses.asdict(bootstrap_interval(values, confidence))
            for name, values in table.items()
            if name != KEY
        }
        return {
            "metrics": self.compute(),
            "confidence": confidence,
            "intervals": intervals,
            "protocol": self.protocol.to_dict(),
        }

    def __str__(self) -> str:
        """The numbers, then the protocol."""
        found = self.compute()
        width = max(len(name) for name in found) + 2
        numbers = "\n".join(f"{name:{width}}{value:.6g}" for name, value in found.items())
        return f"{numbers}\n\n{self.protocol}"

    def _make_distance(self, metric: Metric, stored: ReferenceStatistics | None) -> Any:
        if metric.kind == "distribution":
            return metric.function()
        network: Any = self.networks[metric.network]
        return FrechetDistance(network.features, stored.moments if stored else None)

    def _values(self, metric: Metric, clean: Tensor, decoded: Tensor) -> Tensor:
        """Returns a per-image metric's values (B,) for uint8 images."""
        if metric.kind == "pixelwise":
            return metric.function(clean, decoded)
        return self.networks[metric.network](*(network_input(metric.network, side) for side in (clean, decoded)))

    def _update_distance(self, metric: Metric, distance: Any, clean: Tensor, decoded: Tensor) -> None:
        if metric.kind == "distribution":
            distance.update(clean, decoded)
            return
        network = self.networks[metric.network]
        # A forward pass of the network costs more than all else: none for references that were seen before.
        reference = network(network_input(metric.network, clean)) if distance.reference is None else None
        distance.update(reference, network(network_input(metric.network, decoded)))

    def _distance(self, name: str) -> float:
        with warnings.catch_warnings():
            # torchmetrics does not count merged states as updates, and would warn about each merged suite.
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            return float(self._distances[name].compute())

    def _numbers(self, images: Any, batch: int) -> np.ndarray:
        if images is None:
            # Right for one process only; numbers of two that both count from zero are refused when they merge.
            seen = sum(len(rows[KEY]) for rows in self._rows)
            return np.arange(seen, seen + batch)
        numbers = np.asarray(images.cpu() if isinstance(images, Tensor) else images)
        if numbers.shape != (batch,) or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"expected {batch} integer image numbers, got {numbers.dtype} {numbers.shape}")
        return numbers.astype(np.int64)


def _check_sides(metrics: Sequence[str], height: int, width: int) -> None:
    """Refuses images too small for some of the metrics, and names all of these at once."""
    sides = {name: METRICS[name].min_side for name in metrics}
    lacking = [f"{name} needs {side}" for name, side in sides.items() if side > min(height, width)]
    if lacking:
        raise ValueError(
            f"expected sides of more pixels, got images of {height} x {width}: {', '.join(lacking)}; "
            "leave these metrics out"
        )
