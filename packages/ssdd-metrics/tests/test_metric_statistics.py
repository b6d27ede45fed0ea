"""Bootstrap intervals, paired differences and per-image tables."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ssdd_metrics import bootstrap_interval, compare_tables, extremes, merge_tables, paired_difference


def rng(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_interval_agrees_with_the_normal_one_and_with_scipy():
    values = rng().normal(3, 2, size=400)
    ours = bootstrap_interval(values, resamples=4000)
    half = 1.96 * values.std(ddof=1) / 20
    assert ours.mean == pytest.approx(values.mean())
    normal = (values.mean() - half, values.mean() + half)
    assert (ours.low, ours.high) == pytest.approx(normal, abs=0.1 * half)
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=rng(1))
    expected = (theirs.confidence_interval.low, theirs.confidence_interval.high)
    assert (ours.low, ours.high) == pytest.approx(expected, abs=0.1 * half)


def test_interval_is_reproducible_and_widens_with_confidence():
    values = rng().random(100)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    wide, narrow = bootstrap_interval(values, 0.99), bootstrap_interval(values, 0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_covers_the_truth_as_often_as_it_says():
    samples = (rng(seed).normal(size=60) for seed in range(200))
    intervals = [bootstrap_interval(values, 0.9, resamples=300) for values in samples]
    assert 0.83 < np.mean([interval.low < 0 < interval.high for interval in intervals]) < 0.96


def test_infinite_values_are_counted_and_left_out():
    interval = bootstrap_interval([20.0, np.inf, 30.0])
    assert (interval.mean, interval.images, interval.infinite) == (25, 2, 1)
    assert 20 <= interval.low <= interval.high <= 30
    assert bootstrap_interval([np.inf, np.inf]).mean == np.inf
    single = bootstrap_interval([2.0])
    assert (single.low, single.high) == (2, 2)


@pytest.mark.parametrize("bad", [[], [1.0, np.nan], [[1.0]]])
def test_values_that_are_none_are_refused(bad):
    with pytest.raises(ValueError, match="one number per image"):
        bootstrap_interval(bad)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([1.0], confidence=95)


def test_pairing_finds_what_separate_intervals_hide():
    difficulty = rng().normal(25, 5, size=200)
    a, b = difficulty, difficulty + rng(1).normal(0.2, 0.3, size=200)
    assert bootstrap_interval(a).high > bootstrap_interval(b).low
    result = paired_difference(a, b)
    assert result.significant
    assert result.difference.mean == pytest.approx((b - a).mean())
    assert result.difference.low < 0.2 < result.difference.high
    assert not paired_difference(a, a).significant
    swapped = paired_difference(b, a)
    assert swapped.difference.low == pytest.approx(-result.difference.high, abs=0.02)


def test_pairs_of_infinite_values():
    result = paired_difference([np.inf, 20.0, np.inf], [np.inf, 21.0, 30.0])
    assert (result.difference.mean, result.difference.images, result.difference.infinite) == (0.5, 2, 1)
    with pytest.raises(ValueError, match="same images"):
        paired_difference([1.0], [1.0, 2.0])


def table(order, shift=0.0, **more):
    values = rng().random(len(order))
    return {"image": np.asarray(order), "psnr": values[order] + shift, **more}


@pytest.mark.parametrize("kind", [dict, pd.DataFrame])
def test_tables_are_matched_by_image(kind, tmp_path):
    a = kind(table([0, 1, 2, 3, 4], lpips=np.ones(5), model=np.array(list("aaaaa"))))
    b = kind(table([4, 2, 0, 1, 3], shift=1.0, model=np.array(list("bbbbb"))))
    result = compare_tables(a, b)
    assert set(result) == {"psnr"}
    difference = result["psnr"].difference
    assert (difference.mean, difference.low, difference.high) == pytest.approx((1, 1, 1))
    assert result["psnr"].b == pytest.approx(result["psnr"].a + 1)


def test_tables_of_parquet_and_csv_compare_alike(tmp_path):
    a, b = pd.DataFrame(table([0, 1, 2, 3])), pd.DataFrame(table([3, 2, 1, 0], shift=0.5))
    b.loc[0, "psnr"] = np.inf
    for frame, name in ((a, "a"), (b, "b")):
        frame.to_parquet(tmp_path / f"{name}.parquet")
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    parquet = compare_tables(*(pd.read_parquet(tmp_path / f"{name}.parquet") for name in "ab"))
    csv = compare_tables(*(pd.read_csv(tmp_path / f"{name}.csv") for name in "ab"))
    assert parquet["psnr"].difference.mean == pytest.approx(0.5)
    assert parquet["psnr"].difference.infinite == csv["psnr"].difference.infinite == 1
    assert csv["psnr"].difference.low == pytest.approx(parquet["psnr"].difference.low)


def test_tables_that_cannot_be_compared():
    a = table([0, 1, 2])
    with pytest.raises(ValueError, match="2 are in one only"):
        compare_tables(a, {"image": np.array([0, 1, 3]), "psnr": np.zeros(3)})
    with pytest.raises(ValueError, match=r"expected the columns \['image'\] in the first table"):
        compare_tables({"psnr": np.zeros(3)}, a)
    with pytest.raises(ValueError, match=r"expected the columns \['lpips'\]"):
        compare_tables(a, a, metrics=["lpips"])
    with pytest.raises(ValueError, match="each image once"):
        compare_tables(a, {"image": np.array([0, 1, 1, 2]), "psnr": np.zeros(4)})


def test_merging_tables_orders_by_image():
    whole = table([0, 1, 2, 3, 4, 5])
    shards = [{name: values[rank::3] for name, values in whole.items()} for rank in (2, 0, 1)]
    empty = {name: values[:0] for name, values in whole.items()}
    merged = merge_tables([*shards, empty])
    for name, values in whole.items():
        np.testing.assert_array_equal(merged[name], values)
    with pytest.raises(ValueError, match="each image once, got 0 twice"):
        merge_tables([whole, shards[1]])
    with pytest.raises(ValueError, match="equal columns"):
        merge_tables([whole, {"image": np.zeros(1)}])
    with pytest.raises(ValueError, match="at least one table"):
        merge_tables([])


def test_extremes_know_which_way_is_good():
    columns = {"image": [7, 8, 9], "psnr": [30.0, np.inf, 10.0], "mse": [0.1, 0.0, 0.2]}
    values = {name: np.array(column) for name, column in columns.items()}
    for metric in ("psnr", "mse"):
        best, worst = extremes(values, metric, 2)
        assert best.tolist() == [8, 7]
        assert worst.tolist() == [9, 7]
    with pytest.raises(ValueError, match=r"one of the columns \['mse', 'psnr'\]"):
        extremes(values, "image", 1)


def test_import_brings_nothing_heavy_and_nothing_optional():
    code = (
        "import sys, ssdd_metrics;"
        "print([m for m in ('torchmetrics','lpips','timm','torch_fidelity','torchvision','scipy','pandas',"
        "'huggingface_hub','dreamsim','matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
