"""The rows of a run: losses and evaluations in `history.csv`, wall-clock figures apart in `timings.csv`.

What depends on the machine's mood is kept out of the history, so that it is byte-identical however often a run
was interrupted.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssdd.files import atomic_write

Row = dict[str, Any]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV, columns in order of first appearance, floats with all their digits; atomic."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_write(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[Row]:
    """Reads what `write_rows` wrote; numbers become numbers, empty cells are left out, no file gives no rows."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        return [{k: _number(v) for k, v in row.items() if k and v} for row in csv.DictReader(file)]


def _number(text: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text
