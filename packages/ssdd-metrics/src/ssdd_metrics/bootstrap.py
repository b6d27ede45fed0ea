"""Confidence intervals over images (percentile bootstrap, Efron 1979), and paired differences of two models.

An interval shows how much a mean depends on the drawn images. It does not cover the variation between training seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdd_metrics.tables import KEY

RESAMPLES = 2000  # the ends of a 95 % interval then vary by about 2 % of its width from seed to seed


@dataclass(frozen=True)
class Interval:
    """A mean over images and its confidence interval.

    Args:
        mean: over the finite values; infinite only if all are.
        low: lower end.
        high: upper end.
        images: number of finite values.
        infinite: number of infinite values, which are left out (PSNR of identical images).
    """

    mean: float
    low: float
    high: float
    images: int
    infinite: int = 0


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two models on the same images.

    Args:
        a: mean of the first.
        b: mean of the second.
        difference: interval of the mean of b - a.
    """

    a: float
    b: float
    difference: Interval

    @property
    def significant(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.difference.low > 0 or self.difference.high < 0


def finite_mean(values: np.ndarray) -> float:
    """Returns the mean of the finite values; without any, the first value."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float(values[0])


def bootstrap_interval(values: Any, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Returns the confidence interval of the mean over images.

    Args:
        values: one number per image; infinite ones are counted and left out.
        confidence: probability of the interval, in (0, 1).
        resamples: number of draws of all images with replacement.
        seed: of the draws; equal values and seed give equal intervals.

    Raises:
        ValueError: no value, NaN among them, or a confidence outside (0, 1).
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or np.isnan(values).any():
        raise ValueError("expected one number per image, got none, NaN, or more than one axis")
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, got {confidence}: 95 % is 0.95")
    finite = values[np.isfinite(values)]
    if not len(finite):
        mean = finite_mean(values)
        return Interval(mean, mean, mean, images=0, infinite=len(values))
    # Named, because numpy may exchange the generator behind default_rng, and stored intervals would not repeat.
    generator = np.random.Generator(np.random.PCG64(seed))
    means = [finite[generator.integers(len(finite), size=len(finite))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(
        finite_mean(values), float(low), float(high), images=len(finite), infinite=len(values) - len(finite)
    )


def paired_difference(a: Any, b: Any, confidence: float = 0.95, seed: int = 0) -> PairedDifference:
    """Returns the mean difference b - a of two models on the same images, in the same order.

    Some images are harder than others for both models. Pairing removes that part of the spread, so it shows differences
    that two separate intervals hide.

    Args:
        a: one number per image.
        b: the other model's.
        confidence: see `bootstrap_interval`.
        seed: see `bootstrap_interval`.

    Raises:
        ValueError: the lengths differ, or see `bootstrap_interval`.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"expected values of the same images, got {a.shape} and {b.shape}: align the tables")
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, b - a)  # two infinite PSNRs are equal, but inf - inf is NaN
    return PairedDifference(finite_mean(a), finite_mean(b), bootstrap_interval(difference, confidence, seed=seed))


def compare_tables(
    a: Mapping[str, Any], b: Mapping[str, Any], metrics: Sequence[str] | None = None, confidence: float = 0.95
) -> dict[str, PairedDifference]:
    """Returns the paired differences b - a of two per-image tables, matched by the column `image`.

    Args:
        a: columns by name: dicts of arrays, or DataFrames.
        b: the other model's.
        metrics: columns to compare; by default all numeric columns that both have.
        confidence: see `bootstrap_interval`.

    Raises:
        ValueError: a table lacks the column `image` or a metric, an image occurs twice, or the tables are of
            different images.
    """
    for name, table in (("first", a), ("second", b)):
        missing = {KEY, *(metrics or ())} - set(table.keys())
        if missing:
            raise ValueError(f"expected the columns {sorted(missing)} in the {name} table, it has {list(table.keys())}")
    # The processes of an evaluation finish in any order, so rows are matched by number and not by position.
    images_a, rows_a = np.unique(np.asarray(a[KEY]), return_index=True)
    images_b, rows_b = np.unique(np.asarray(b[KEY]), return_index=True)
    if len(images_a) != len(a[KEY]) or len(images_b) != len(b[KEY]):
        raise ValueError("expected each image once in a table, got repeated ones: compare one model with one other")
    if not np.array_equal(images_a, images_b):
        alone = len(np.setxor1d(images_a, images_b))
        raise ValueError(f"expected two tables of the same images, {alone} are in one only: evaluate both on one set")
    shared = [name for name in list(a.keys()) if name in set(b.keys()) - {KEY}]
    metrics = metrics or [name for name in shared if _numeric(a[name]) and _numeric(b[name])]
    return {
        name: paired_difference(np.asarray(a[name])[rows_a], np.asarray(b[name])[rows_b], confidence)
        for name in metrics
    }


def _numeric(values: Any) -> bool:
    return np.issubdtype(np.asarray(values).dtype, np.number)
