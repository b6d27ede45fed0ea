"""The index of a source: one pass lists its images with their facts, and the rejected files with reasons."""

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ssdd.data.decoding import BadImage, Reason
from ssdd.data.examiners import Examiners, Found
from ssdd.data.known_facts import KnownFacts
from ssdd.data.source import VALIDATION, ImageFacts, Listing, Rejection, Source, tell_notes
from ssdd.progress import Show, bar

_TYPES = {"path": "str", "split": "str", "width": "int32", "height": "int32", "bytes": "int64", "sha256": "str"}
INDEX_COLUMNS = tuple(_TYPES)
"""The columns that every index has; those of earlier releases lack `label`."""

_SCHEMA = pa.schema(
    {name: {"str": pa.string(), "int32": pa.int32(), "int64": pa.int64()}[kind] for name, kind in _TYPES.items()}
)
NO_CLASS = -1
REJECTED_COLUMNS = ("path", "reason", "detail")
MAX_ASPECT = 32
"""Longer pictures are refused: with the short side resized to a fixed size, the long one would have no bound."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class IndexedImages:
    """The findings of `index_images`.

    Args:
        index: a row per usable image: path (relative to the source), split (`train` or `validation`), width
            and height in pixels (upright), bytes, sha256 (of the stored bytes), label (number of its class among
            the sorted names of all classes in the index, -1 for none).
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
    ranks: int = 1,
    known: KnownFacts | None = None,
    progress: Show = True,
) -> IndexedImages:
    """Reads and decodes every image of a source once.

    The result depends on the images and their names alone: not on the machine, the folder's place, the number of
    workers or ranks, or what an earlier pass has read.

    Args:
        source: the images.
        limit: images per split, a fixed random choice in the source's order; a smaller one chooses a subset.
        min_side: pixels; images with a shorter side are rejected.
        held_out: share of the images, in [0, 1), that becomes the split `validation` if the source has none.
            The images with the smallest content hashes are taken, so that equal images never fall into both splits.
        max_rejected: share of rejected files, in [0, 1], above which the pass fails.
        workers: child processes of each rank; 0 decodes in this process.
        ranks: processes of the group that share the work; the others call `Examiners.serve`.
        known: facts of an earlier pass; images of the same version are not read again.
        progress: the display of the progress.

    Raises:
        ValueError: an argument is out of range, no image is usable, or too many are rejected (the first ten are named).
        ChildProcessError: a worker was killed.
    """
    _check_arguments(limit, min_side, workers, held_out, max_rejected)
    listing = source.listing()
    chosen = {split: _choice(len(names), limit) for split, names in listing.names.items()}
    rejected = list(listing.rejected)
    notes: list[tuple[str, str]] = []
    tables = []
    with (
        warnings.catch_warnings(),
        Examiners(source, workers, 0, ranks) as examiners,
        bar("images", sum(map(len, chosen.values())), progress) as advance,
    ):
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata (harmless) and of bombs (rejected below)
        for split, names in _portions(listing, chosen, examiners.portion):
            found = [_judge(*pair, min_side) for pair in _facts(examiners, names, known or KnownFacts(None))]
            good = [(name, item) for name, item in zip(names, found, strict=True) if isinstance(item, ImageFacts)]
            rejected += [item for item in found if isinstance(item, Rejection)]
            notes += [(name, item.note) for name, item in good if item.note]
            tables.append(_table(split, good))
            advance(len(names))
    tell_notes(notes)
    index = _index_table(tables, source)
    _check_rejected(rejected, len(index), max_rejected, source)
    index = _hold_out(index, held_out)
    repeated = int(index["sha256"].duplicated().sum())
    if repeated:
        _log.info("%d of %d images have the same content as an earlier one", repeated, len(index))
    return IndexedImages(index=index, rejected=_rejected_table(rejected))


def _portions(listing: Listing, chosen: dict[str, np.ndarray], size: int) -> Iterator[tuple[str, list[str]]]:
    """Yields the split and the names of so many chosen images at a time, in order."""
    for split, numbers in chosen.items():
        for start in range(0, len(numbers), size):
            yield split, [listing.names[split][i] for i in numbers[start : start + size]]


def _facts(examiners: Examiners, names: list[str], known: KnownFacts) -> list[tuple[str, Found]]:
    """Returns the facts of images by name: those that are known, and what the examiners find of the others."""
    versions = {name: examiners.source.version(name) for name in names}
    facts: dict[str, Found] = dict(known.recall(versions))
    new = [name for name in names if name not in facts]
    facts.update(zip(new, examiners.examine(new), strict=True))
    # An image that was replaced while it was read is not remembered.
    known.remember(
        [
            (name, versions[name], item)
            for name in new
            if isinstance(item := facts[name], ImageFacts)
            and versions[name]
            and versions[name] == examiners.source.version(name)
        ]
    )
    return [(name, facts[name]) for name in names]


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


def _judge(name: str, found: Found, min_side: int) -> Found:
    """Rejects an image whose size is unusable."""
    if isinstance(found, Rejection):
        return found
    short, long = sorted((found.width, found.height))
    size = f"{found.width} x {found.height} pixels"
    if short < min_side:
        bad = BadImage(Reason.TOO_SMALL, f"{size}, the short side has to have {min_side}")
        return Rejection.of(name, bad)
    if long > MAX_ASPECT * short:
        return Rejection.of(name, BadImage(Reason.TOO_LONG, f"{size}, at most {MAX_ASPECT} : 1"))
    return found


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


def _table(split: str, facts: list[tuple[str, ImageFacts]]) -> pa.Table:
    """Returns rows in Arrow's flat buffers: as Python objects, those of a million images would take a gigabyte."""
    rows = [(name, split, item.width, item.height, item.size, item.sha256) for name, item in facts]
    columns = list(zip(*rows, strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=_SCHEMA)


def _index_table(tables: list[pa.Table], source: Source) -> pd.DataFrame:
    # The types are stated, since an empty table would have none and Parquet keeps them.
    rows = pa.concat_tables([_table("", []), *tables]).to_pandas().astype(_TYPES)
    classes = [source.class_of(path) for path in rows["path"]]
    # Of the images in the index, in the order of the classes' names.
    numbers = {name: number for number, name in enumerate(sorted(set(classes) - {""}))}
    return rows.assign(label=np.array([numbers.get(name, NO_CLASS) for name in classes], np.int32))


def _rejected_table(rejected: list[Rejection]) -> pd.DataFrame:
    rows = [{**asdict(bad), "reason": str(bad.reason)} for bad in rejected]
    return pd.DataFrame(rows, columns=list(REJECTED_COLUMNS)).astype("str")


def _hold_out(index: pd.DataFrame, share: float) -> pd.DataFrame:
    """Moves a share of the rows to validation, if the source itself has no validation images."""
    if share == 0 or len(index) < 2 or (index["split"] == VALIDATION).any():
        return index
    hashes = index["sha256"].sort_values()
    last = hashes.iloc[min(max(1, round(share * len(index))), len(index) - 1) - 1]
    if last == hashes.iloc[-1]:  # all images are equal, and none may be in both splits
        return index
    return index.assign(split=index["split"].mask(index["sha256"] <= last, VALIDATION))
