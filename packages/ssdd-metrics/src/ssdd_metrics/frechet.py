"""A streaming Frechet distance over feature vectors, on torchmetrics' machinery for states that add up.

Legend: B batch, D features.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from ssdd_metrics.moments import Moments, frechet_distance


class FrechetDistance(Metric):
    """Frechet distance between the features of references and reconstructions.

    Features are never stored: only their count, sum and sum of outer products, in float64 (in float32 the
    result is off by 0.03 and can be negative). These states add up over batches, `merge_state` and processes.

    Args:
        features: D, the size of a feature vector.
        reference: moments of the reference side, computed before; `update` then takes reconstructions only.
            They are not part of the state: each process may load them, and merging does not count them twice.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = False

    reference_count: Tensor
    reference_total: Tensor
    reference_outer: Tensor
    reconstruction_count: Tensor
    reconstruction_total: Tensor
    reconstruction_outer: Tensor

    def __init__(self, features: int, reference: Moments | None = None) -> None:
        # compute() must not start a collective that the other processes do not join.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.features = features
        self.reference = reference
        for side in ("reference", "reconstruction"):
            zeros = {
                "count": torch.tensor(0),
                "total": torch.zeros(features, dtype=torch.float64),
                "outer": torch.zeros(features, features, dtype=torch.float64),
            }
            for name, zero in zeros.items():
                self.add_state(f"{side}_{name}", zero, dist_reduce_fx="sum")

    def update(self, reference: Tensor | None, reconstruction: Tensor) -> None:
        """Adds a batch.

        Args:
            reference: (B, D) features of the references; None if their moments were passed to the metric.
            reconstruction: (B, D) features of the reconstructions.

        Raises:
            ValueError: another number of features, or the reference side comes twice or not at all.
        """
        if (reference is None) != (self.reference is not None):
            raise ValueError(
                "expected reference features exactly when no reference moments were passed: "
                "pass None with stored statistics, features without"
            )
        if reference is not None:
            self._add("reference", reference)
        self._add("reconstruction", reconstruction)

    def compute(self) -> float:
        """Returns the distance, at least 0; with fewer images than features it is biased, but finite.

        Raises:
            ValueError: a side is empty or holds NaN; the stored reference has another number of images.
        """
        reconstruction = self.moments("reconstruction")
        if self.reference is None:
            return frechet_distance(self.moments("reference"), reconstruction)
        # The bias depends on the number of images, so distances over different numbers cannot be compared.
        stored, seen = int(self.reference.count), int(reconstruction.count)
        if stored != seen:
            raise ValueError(
                f"expected as many reconstructions as the reference statistics have, {stored}, got {seen}: "
                "the distance depends on the count; evaluate all images, or compute statistics of these"
            )
        return frechet_distance(self.reference, reconstruction)

    def moments(self, side: str) -> Moments:
        """Returns the moments accumulated so far for `"reference"` or `"reconstruction"`."""
        return Moments(*(getattr(self, f"{side}_{name}") for name in ("count", "total", "outer")))

    def _add(self, side: str, features: Tensor) -> None:
        if features.ndim != 2 or features.shape[1] != self.features:
            raise ValueError(
                f"expected features (B, {self.features}), got {tuple(features.shape)}: "
                "build the metric with the size of this feature network"
            )
        features = features.to(self.reconstruction_total)  # device and float64
        getattr(self, f"{side}_count").add_(len(features))
        getattr(self, f"{side}_total").add_(features.sum(0))
        getattr(self, f"{side}_outer").addmm_(features.T, features)
