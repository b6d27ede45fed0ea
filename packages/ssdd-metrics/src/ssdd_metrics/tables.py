"""Tables of per-image values: one row per image, one column per metric, ordered by the image's number.

A table is a plain dict of equally long 1-D numpy arrays with the key column `image` (int64), which pandas takes without
conversion: `pandas.DataFrame(table).to_parquet(path)`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ssdd_metrics.registry import METRICS

KEY = "image"

Table = dict[str, np.ndarray]


def merge_tables(tables: Sequence[Mapping[str, Any]]) -> Table:
    """Joins the tables of several processes, which evaluated disjoint images, into one ordered by image.

    Args:
        tables: with equal columns; empty ones are fine.

    Raises:
        ValueError: no table, columns differ, or an image was evaluated twice.
    """
    if not tables:
        raise ValueError("expected at least one table, got none")
    columns = list(tables[0].keys())
    for table in tables:
        if set(table.keys()) != set(columns) or KEY not in columns:
            raise ValueError(
                f"expected tables with `{KEY}` and equal columns, got {sorted(columns)} and {sorted(table)}"
            )
    joined = {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in columns}
    order = np.argsort(joined[KEY], kind="stable")
    # Samplers pad the last batch of a process with images of the first one; counted twice, they would move the means.
    repeated = np.flatnonzero(np.diff(joined[KEY][order]) == 0)
    if len(repeated):
        raise ValueError(
            f"expected each image once, got {joined[KEY][order][repeated[0]]} twice: shard without "
            "padding, and number them over the whole data set"
        )
    return {name: values[order] for name, values in joined.items()}


def extremes(table: Mapping[str, Any], metric: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of the best and of the worst images by a metric, the most extreme ones first.

    Args:
        table: a per-image table.
        metric: one of its columns. `registry.METRICS` knows which values are good; in a column that is not of this
            package, low ones are.
        count: how many of each; fewer if there are fewer images.

    Raises:
        ValueError: the table has no such column.
    """
    if metric not in set(table) - {KEY}:
        raise ValueError(f"expected one of the columns {sorted(set(table) - {KEY})}, got {metric!r}")
    values = np.asarray(table[metric])
    badness = METRICS[metric].badness(values) if metric in METRICS else values
    order = np.argsort(badness, kind="stable")  # stable: equal values keep the order of the images on every machine
    images = np.asarray(table[KEY])[order]
    return images[:count], images[::-1][:count]
