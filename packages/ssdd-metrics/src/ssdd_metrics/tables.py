"""Tables of per-image values: one row per image, one column per metric, ordered by the image's number.

A table is a plain dict of equally long 1-D numpy arrays with the key column `image` (int64). pandas takes it
as it is: `pandas.DataFrame(table).to_parquet(path)`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

KEY = "image"
HIGHER_IS_BETTER = frozenset({"psnr", "ssim_gaussian", "ssim_uniform"})

Table = dict[str, np.ndarray]


def merge_tables(tables: Sequence[Mapping[str, Any]]) -> Table:
    """Joins the tables of several processes, each of which saw other images, into one ordered by image.

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
    repeated = np.flatnonzero(np.diff(joined[KEY][order]) == 0)
    if len(repeated):
        raise ValueError(
            f"expected each image once, got {joined[KEY][order][repeated[0]]} twice: shard without "
            "padding, and number them over the whole data set"
        )
    return {name: values[order] for name, values in joined.items()}


def extremes(table: Mapping[str, Any], metric: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the best and of the worst images by a metric, each list led by its most extreme one.

    Args:
        table: a per-image table.
        metric: one of its columns; high values are good for PSNR and SSIM, low ones for all others.
        count: how many of each; fewer if there are fewer images.

    Raises:
        ValueError: an unknown metric.
    """
    if metric not in set(table) - {KEY}:
        raise ValueError(f"expected one of the columns {sorted(set(table) - {KEY})}, got {metric!r}")
    values = np.asarray(table[metric])
    order = np.argsort(-values if metric in HIGHER_IS_BETTER else values, kind="stable")
    images = np.asarray(table[KEY])[order]
    return images[:count], images[::-1][:count]
