"""All metrics of an evaluation in one object: images in, numbers out, with the protocol that produced them.

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
from ssdd_metrics.images import check_reconstruction_range, check_reference_range, check_shapes, to_uint8, to_unit
from ssdd_metrics.networks import SMALLEST_SIDES
from ssdd_metrics.precision import strict_float32
from ssdd_metrics.protocol import Protocol
from ssdd_metrics.reference import ReferenceStatistics, reference_protocols
from ssdd_metrics.registry import (
    CAN_BE_INFINITE,
    FRECHET_NETWORKS,
    PAIR_NETWORKS,
    PIXEL_METRICS,
    frechet_features,
    get_network,
    identity,
    metric_names,
)
from ssdd_metrics.ssim import GAUSSIAN_TAPS, UNIFORM_TAPS
from ssdd_metrics.swd import PATCH, SlicedWasserstein
from ssdd_metrics.tables import KEY, Table, merge_tables

# metric: the smallest side that it takes, in pixels; the others take any
SMALLEST = {
    "ssim_gaussian": len(GAUSSIAN_TAPS),
    "ssim_uniform": len(UNIFORM_TAPS),
    "swd": PATCH,
    **{f"lpips_{net}": side for net, side in SMALLEST_SIDES.items()},
}


class MetricSuite:
    """Compares reconstructions with references, batch by batch, in memory that does not grow with features.

    Every metric sees the same 8-bit images (`to_uint8`). Per-image values are kept (8 bytes per image and
    metric).

    Args:
        metrics: "offline" (nothing to download), "full", or names out of both, and "dreamsim".
        protocol: what the caller knows of the data and the model; printed and stored with the numbers.
        networks: loaded networks by name ("inception", "dinov2", "lpips_alex", "lpips_vgg", "dreamsim"), for
            weights at other places, or to share one with a training loss. The others are loaded from the
            usual caches.
        references: stored reference statistics by metric ("rfid", "fdd", "frechet_random_conv"); then the
            reference images do not pass that network again.
        device: where metrics and pretrained networks run.

    Raises:
        ValueError: an unknown metric, or statistics for none of the metrics.
        NetworkUnavailable: a pretrained network's weights are not there.
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
        references = references or {}
        foreign = references.keys() - (FRECHET_NETWORKS.keys() & set(self.metrics))
        if foreign:
            raise ValueError(f"expected reference statistics for Frechet metrics of this suite, got {sorted(foreign)}")
        needed = [(PAIR_NETWORKS | FRECHET_NETWORKS).get(name) for name in self.metrics]
        self.networks = {name: get_network(name, networks or {}).to(self.device) for name in needed if name}
        self._distances: dict[str, FrechetDistance | SlicedWasserstein] = {}
        for name in self.metrics:
            if name in FRECHET_NETWORKS:
                stored = references[name].moments if name in references else None
                network: Any = self.networks[FRECHET_NETWORKS[name]]
                self._distances[name] = FrechetDistance(network.features, stored).to(self.device)
            elif name == "swd":
                self._distances[name] = SlicedWasserstein().to(self.device)
        self._rows: list[Table] = []

    def update(self, reference: Tensor, reconstruction: Tensor, images: Any = None) -> None:
        """Adds a batch of pairs.

        Args:
            reference: (B, 3, H, W), uint8 or in [0, 1].
            reconstruction: same shape; overshoot beyond [0, 1] is clamped.
            images: (B,) integers, each image's number in the data set; needed where several processes share
                the work. By default, counted from zero.

        Raises:
            ValueError: shapes that differ, no RGB, NaN, a wrong range, or an image too small for a chosen
                metric.
        """
        check_shapes(reference, reconstruction)  # all checks come before anything is added
        _check_sides(self.metrics, *reference.shape[-2:])
        if reference.shape[1] != 3:
            raise ValueError(f"expected RGB images (B, 3, H, W), got {tuple(reference.shape)}: repeat grey channels")
        check_reference_range(reference)
        clean, decoded = (to_uint8(side.detach().to(self.device)) for side in (reference, reconstruction))
        check_reconstruction_range(reference, reconstruction)
        rows: Table = {KEY: self._numbers(images, len(clean))}
        with torch.no_grad(), strict_float32(self.device):
            for name in self.metrics:
                if name in PIXEL_METRICS:
                    rows[name] = PIXEL_METRICS[name](clean, decoded).cpu().numpy()
                elif name in PAIR_NETWORKS:
                    values = self.networks[PAIR_NETWORKS[name]](to_unit(clean), to_unit(decoded))
                    rows[name] = values.double().cpu().numpy()
            for name, distance in self._distances.items():
                self._update_distance(name, distance, clean, decoded)
        self._rows.append(rows)

    def compute(self) -> dict[str, float]:
        """The numbers: means over images, and distances between the two sets.

        A mean is over the finite values, and beside each metric that can be infinite stands how often it was,
        such as `psnr_infinite`; only where all are infinite, so is the mean.

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
            if name in CAN_BE_INFINITE:
                results[f"{name}_infinite"] = int(np.isinf(table[name]).sum())
        return results

    def per_image(self) -> Table:
        """One row per image, ordered by its number: the column `image` and one for each per-image metric."""
        columns = [KEY, *(name for name in self.metrics if name not in self._distances)]
        empty: Table = {name: np.zeros(0, np.int64 if name == KEY else np.float64) for name in columns}
        return merge_tables([empty, *self._rows])

    def merge(self, other: "MetricSuite | Mapping[str, Tensor]") -> None:
        """Adds what another suite of the same metrics saw, or its `state()` from another process.

        Raises:
            ValueError: other metrics, or images that both saw.
        """
        state = other.state() if isinstance(other, MetricSuite) else other
        if state.keys() != self.state().keys():
            raise ValueError(f"expected a state of the metrics {self.metrics}, got {sorted(state)}: build suites alike")
        rows = {key.removeprefix("rows."): value.cpu().numpy() for key, value in state.items() if "rows." in key}
        self._rows = [merge_tables([self.per_image(), rows])]
        for name, distance in self._distances.items():
            prefix = f"sum.{name}."
            distance.merge_state({k.removeprefix(prefix): v.to(self.device) for k, v in state.items() if prefix in k})

    def state(self) -> dict[str, Tensor]:
        """Everything accumulated, as tensors, fit for safetensors or a collective.

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
        """The reference side of each Frechet metric, for `save_references` or as `references` of later suites."""
        protocols = reference_protocols(self.metrics, self._declared, self.networks)
        return {
            name: ReferenceStatistics(distance.reference or distance.moments("reference"), protocols[name])
            for name, distance in self._distances.items()
            if isinstance(distance, FrechetDistance)
        }

    @property
    def protocol(self) -> Protocol:
        """What produced the numbers: the caller's part, and what the suite knows."""
        return dataclasses.replace(
            self._declared,
            images=sum(len(rows[KEY]) for rows in self._rows),
            metrics=self.metrics,
            weights=dict(identity(name, network) for name, network in self.networks.items()),
        )

    def report(self, confidence: float = 0.95) -> dict[str, Any]:
        """Numbers, confidence intervals of the means, and protocol, in one dict of plain values."""
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

    def _distance(self, name: str) -> float:
        with warnings.catch_warnings():  # torchmetrics does not count merged states as updates
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            return self._distances[name].compute()

    def _update_distance(
        self, name: str, distance: FrechetDistance | SlicedWasserstein, clean: Tensor, decoded: Tensor
    ) -> None:
        if isinstance(distance, SlicedWasserstein):
            distance.update(clean, decoded)
            return
        network = self.networks[FRECHET_NETWORKS[name]]
        reference = frechet_features(name, network, clean) if distance.reference is None else None
        distance.update(reference, frechet_features(name, network, decoded))

    def _numbers(self, images: Any, batch: int) -> np.ndarray:
        if images is None:
            seen = sum(len(rows[KEY]) for rows in self._rows)
            return np.arange(seen, seen + batch)
        numbers = np.asarray(images.cpu() if isinstance(images, Tensor) else images)
        if numbers.shape != (batch,) or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"expected {batch} integer image numbers, got {numbers.dtype} {numbers.shape}")
        return numbers.astype(np.int64)


def _check_sides(metrics: Sequence[str], height: int, width: int) -> None:
    """Refuses images too small for some of the metrics, and names those."""
    lacking = [f"{name} needs {SMALLEST[name]}" for name in metrics if SMALLEST.get(name, 1) > min(height, width)]
    if lacking:
        raise ValueError(
            f"expected sides of more pixels, got images of {height} x {width}: {', '.join(lacking)}; "
            "leave these metrics out"
        )
