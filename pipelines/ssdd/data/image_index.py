"""The index of a source: one pass lists its images with their facts, and the rejected files with reasons."""

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from ssdd.data.decoding import BadImage, Reason
from ssdd.data.source import VALIDATION, ImageFacts, Rejection, Source, tell_notes
from ssdd.progress import Show, bar

_TYPES = {"path": "str", "split": "str", "width": "int32", "height": "int32", "bytes": "int64", "sha256": "str"}
INDEX_COLUMNS = tuple(_TYPES)
REJECTED_COLUMNS = ("path", "reason", "detail")
MAX_ASPECT = 32
"""Longer pictures are refused: with the short side resized to a fixed size, the long one would have no bound."""

_CHUNK = 512  # names submitted to the threads at a time; bounds the memory of the pass
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IndexedImages:
    """The findings of `index_images`.

    Args:
        index: a row per usable image: path (relative to the source), split (`train` or `validation`), width
            and height in pixels (upright), bytes, sha256 (of the stored bytes).
        rejected: a row per unusable file: path, reason, detail.
    """

    index: pd.DataFrame
    rejected: pd.DataFrame


def index_images(
    source: Source,
    *,
    limit: int | None = None,
    min_side: int = 16,
    held_out: float = 0.05,
    max_rejected: float = 0.05,
    workers: int = 0,
    progress: Show = True,
) -> IndexedImages:
    """Reads and decodes every image of a source once.

    The result depends on the images and their names alone: not on the machine, the folder's place, or
    `workers`.

    Args:
        source: the images.
        limit: at most this many images per split, a fixed random choice in the source's order (a smaller
            limit chooses a subset of a larger one's images).
        min_side: pixels; images with a shorter side are rejected.
        held_out: share of the images, in [0, 1), that becomes the split `validation` if the source has none.
            The images with the smallest content hashes are taken, so that equal images never fall into both splits.
        max_rejected: share of rejected files, in [0, 1], above which the pass fails.
        workers: threads; 0 works in the calling thread.
        progress: the display of the progress.

    Raises:
        ValueError: an argument is out of range, no usable image was found, or too many were rejected (the
            message gives the first ten).
    """
    _check_arguments(limit, min_side, workers, held_out, max_rejected)
    listing = source.listing()
    wanted = [(split, names[i]) for split, names in listing.names.items() for i in _choice(len(names), limit)]
    rejected = list(listing.rejected)
    rows = []
    notes: list[tuple[str, str]] = []
    source.preload()

    def examine(item: tuple[str, str]) -> ImageFacts | Rejection:
        return _examine(source, item[1], min_side)

    with warnings.catch_warnings(), bar("images", len(wanted), progress) as advance:
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata (harmless) and of bombs (rejected below)
        for (split, name), result in zip(wanted, _in_order(examine, wanted, workers), strict=True):
            if isinstance(result, Rejection):
                rejected.append(result)
            else:
                notes += [(name, result.note)] if result.note else []
                rows.append((name, split, result.width, result.height, result.size, result.sha256))
            advance(1)

    tell_notes(notes)
    _check_rejected(rejected, len(rows), max_rejected, source)
    index = _hold_out(_index_table(rows), held_out)
    repeated = int(index["sha256"].duplicated().sum())
    if repeated:
        _log.info("%d of %d images have the same content as an earlier one", repeated, len(index))
    return IndexedImages(index=index, rejected=_rejected_table(rejected))


def _check_arguments(limit: int | None, min_side: int, workers: int, held_out: float, max_rejected: float) -> None:
    if (limit is not None and limit < 1) or min_side < 1 or workers < 0:
        raise ValueError(
            f"expected limit and min_side of at least 1 and workers of at least 0, got {limit}, {min_side}, {workers}"
        )
    if not 0 <= held_out < 1 or not 0 <= max_rejected <= 1:
        raise ValueError(f"expected 0 <= held_out < 1 and 0 <= max_rejected <= 1, got {held_out} and {max_rejected}")


def check_held_out(index: pd.DataFrame, held_out: float) -> None:
    """Refuses an index from which no image could be held out, before a stage trains on it.

    Args:
        index: the table of `index_images`.
        held_out: the share that was asked for; with 0, none was.

    Raises:
        ValueError: there are no two different images.
    """
    if held_out and not (index["split"] == VALIDATION).any():
        what = "one image" if len(index) == 1 else f"{len(index)} images, all with the same content"
        raise ValueError(
            f"expected at least two different images, since prepare holds one out from training, got {what}: add images"
        )


def select(index: pd.DataFrame, split: str | None = None, limit: int | None = None) -> pd.DataFrame:
    """Returns the rows of one split, at most `limit` of them (chosen as in `index_images`), numbered from 0.

    Args:
        index: the table of `index_images`.
        split: `train`, `validation`, or None for all rows.
        limit: number of rows to keep.

    Raises:
        ValueError: the table lacks a column, or has no row of that split.
    """
    missing = [column for column in INDEX_COLUMNS if column not in index.columns]
    if missing:
        raise ValueError(f"expected an index with the columns {', '.join(INDEX_COLUMNS)}, lacking {missing}")
    rows = rows_of(index, split, limit)
    if not len(rows):
        counts = dict(Counter(index["split"]))
        hint = "set prepare.held_out above 0" if split == VALIDATION else "add images that are not held out"
        raise ValueError(f"expected images in the split {split!r}, the index has {counts}: {hint}")
    return index.iloc[rows].reset_index(drop=True)


def rows_of(index: pd.DataFrame, split: str | None = None, limit: int | None = None) -> np.ndarray:
    """Returns the numbers of the rows that `select` returns, in ascending order."""
    rows = np.arange(len(index)) if split is None else np.flatnonzero(index["split"] == split)
    return rows[_choice(len(rows), limit)]


def _choice(count: int, limit: int | None) -> np.ndarray:
    """Returns the sorted positions of `limit` of `count` items; smaller limits choose subsets."""
    if limit is None or limit >= count:
        return np.arange(count)
    # One key per position, whatever the limit: the k smallest keys are a subset of the k + 1 smallest.
    keys = np.random.PCG64([2, count]).random_raw(count)
    return np.sort(np.argsort(keys, kind="stable")[:limit])


def _examine(source: Source, name: str, min_side: int) -> ImageFacts | Rejection:
    try:
        facts = source.examine(name)
        short, long = sorted((facts.width, facts.height))
        size = f"{facts.width} x {facts.height} pixels"
        if short < min_side:
            raise BadImage(Reason.TOO_SMALL, f"{size}, the short side has to have {min_side}")
        if long > MAX_ASPECT * short:
            raise BadImage(Reason.TOO_LONG, f"{size}, at most {MAX_ASPECT} : 1")
    except BadImage as bad:
        return Rejection.of(name, bad)
    return facts


def _in_order(
    function: Callable[[tuple[str, str]], ImageFacts | Rejection], items: list[tuple[str, str]], workers: int
) -> Iterator[ImageFacts | Rejection]:
    """Yields function(item) in the order of the items; threads work at most `_CHUNK` items ahead."""
    if workers == 0:
        yield from map(function, items)
        return
    # Threads and no processes: decoding and hashing release the interpreter's lock.
    with ThreadPoolExecutor(workers, thread_name_prefix="index") as pool:
        for start in range(0, len(items), _CHUNK):
            yield from pool.map(function, items[start : start + _CHUNK])


def _check_rejected(rejected: list[Rejection], accepted: int, max_rejected: float, source: Source) -> None:
    seen = len(rejected) + accepted
    if seen == 0:
        raise ValueError(f"expected images in {source!r}, found none: check the path and the files' suffixes")
    if accepted > 0 and len(rejected) <= max_rejected * seen:
        return
    first = "\n".join(f"  {bad.path!r}: {bad.reason} ({bad.detail})" for bad in rejected[:10])
    what = f"at most {max_rejected:.1%} may be: repair or remove them, or raise max_rejected"
    raise ValueError(
        f"{len(rejected)} of {seen} files of {source!r} are rejected, "
        f"{what if accepted else 'so no image is left'}. The first {min(10, len(rejected))}:\n{first}"
    )


def _index_table(rows: list[tuple[str, str, int, int, int, str]]) -> pd.DataFrame:
    # The types are stated, since an empty table would have none and Parquet keeps them.
    return pd.DataFrame(rows, columns=list(INDEX_COLUMNS)).astype(_TYPES)


def _rejected_table(rejected: list[Rejection]) -> pd.DataFrame:
    rows = [{**asdict(bad), "reason": str(bad.reason)} for bad in rejected]
    return pd.DataFrame(rows, columns=list(REJECTED_COLUMNS)).astype("str")


def _hold_out(index: pd.DataFrame, share: float) -> pd.DataFrame:
    """Moves a share of the rows to validation, if the source itself has no validation images."""
    if share == 0 or len(index) < 2 or (index["split"] == VALIDATION).any():
        return index
    hashes = np.sort(index["sha256"].to_numpy(dtype=str))
    last = hashes[min(max(1, round(share * len(index))), len(index) - 1) - 1]
    if last == hashes[-1]:  # all images are equal, and none may be in both splits
        return index
    return index.assign(split=index["split"].mask(index["sha256"] <= last, VALIDATION))
