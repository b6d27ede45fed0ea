"""The rows of a run: losses and evaluations in `history.csv`, wall-clock figures apart in `timings.csv`.

Figures that depend on the machine are kept out of the history, so that it is byte-identical however often a run was
interrupted.
"""

import csv
import hashlib
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ssdd.files import atomic_write

log = logging.getLogger(__name__)

Row = dict[str, Any]

SEAL = "# sha256:"  # starts the last line of timings.csv: the hash of all lines before


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows as CSV, columns in order of first appearance, floats with all their digits; atomic."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(_table(rows))


def read_rows(path: Path) -> list[Row]:
    """Reads the rows of `write_rows` or `write_timings`; numbers become numbers, empty cells are left out.

    A file that does not exist has no rows.
    """
    return _rows(path.read_bytes()) if path.is_file() else []


def write_timings(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows and their hash: no later run could measure them again, so damage must not pass for a measurement.

    They are not in the resume state, which is sealed, because equal runs must leave equal states.
    """
    table = _table(rows)
    with atomic_write(path) as temporary:
        temporary.write_bytes(table + f"{SEAL}{hashlib.sha256(table).hexdigest()}\n".encode())


def read_timings(path: Path, last_step: int) -> list[Row]:
    """Reads the rows of `write_timings` up to a step; none of an altered file."""
    if not path.is_file():
        return []
    table, _, seal = path.read_bytes().rpartition(SEAL.encode())
    if seal.strip() != hashlib.sha256(table).hexdigest().encode():
        log.warning("%s does not match its hash: the speeds of the steps so far are left out", path)
        return []
    return [row for row in _rows(table) if row["step"] <= last_step]


def _table(rows: Sequence[Row]) -> bytes:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _rows(table: bytes) -> list[Row]:
    lines: Iterable[str] = io.StringIO(table.decode(errors="replace"), newline="")
    lines = (line for line in lines if not line.startswith(SEAL))
    return [{k: _number(v) for k, v in row.items() if k and v} for row in csv.DictReader(lines)]


def _number(text: Any) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except (TypeError, ValueError):
            continue
    return text
