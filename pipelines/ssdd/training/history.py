"""The rows of a run: losses and evaluations in `history.csv`, wall-clock figures apart in `timings.csv`.

What depends on the machine's mood is kept out of the history, so that it is byte-identical however often a run
was interrupted.
"""

import csv
import hashlib
import json
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


def write_timings(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows each of which can tell whether it was altered: no later run could measure them again."""
    write_rows(path, [row | {"check": _check(row)} for row in rows])


def read_timings(path: Path, last_step: int) -> list[Row]:
    """Reads what `write_timings` wrote, up to a step; altered rows are left out."""
    rows = [(row.pop("check", None), row) for row in read_rows(path)]
    return [row for check, row in rows if check == _check(row) and row["step"] <= last_step]


def _check(row: Row) -> str:
    return "sha256:" + hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16]


def _number(text: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text
