"""Cache files in SQLite, which may be lost or damaged at no cost but time."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")

QUESTIONS = 500  # values of one query; SQLite has taken 999 in its oldest releases


def open_cache(path: Path, statements: Sequence[str]) -> sqlite3.Connection | None:
    """Opens a cache file, and makes it when it is missing or damaged.

    Args:
        path: the file.
        statements: that make its tables, and a query of all their columns, which shows an older or damaged table.

    Returns:
        None where there can be no cache: another process uses the file, or the folder is read only.
    """
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, timeout=1.0)
            # Without a wait for the disk: a power cut costs at most the cache.
            database.execute("PRAGMA synchronous = OFF")
            for statement in statements:
                database.execute(statement).fetchone()
            return database
        except (sqlite3.Error, OSError) as error:
            if "locked" in str(error):
                return None  # in use by another run, which must keep it
            with contextlib.suppress(OSError):
                path.unlink()
    return None


class Cache:
    """An open cache file; `_database` is None where there is none.

    Args:
        path: the file; None for no cache.
        statements: see `open_cache`.
    """

    def __init__(self, path: Path | None, statements: Sequence[str]) -> None:
        self._database = open_cache(path, statements) if path is not None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Saves what was added and closes the file."""
        if self._database is not None:
            write_down(self._database)
            self._database.close()
            self._database = None


def write_down(database: sqlite3.Connection | None) -> None:
    """Commits what was added; an open transaction would lock out another run."""
    if database is not None:
        with contextlib.suppress(sqlite3.Error):
            database.commit()


def portions(values: Sequence[T]) -> Iterator[tuple[Sequence[T], str]]:
    """Yields the values in portions of `QUESTIONS`, each with its text `(?, ?, ...)` for a query."""
    for start in range(0, len(values), QUESTIONS):
        part = values[start : start + QUESTIONS]
        yield part, f"({','.join('?' * len(part))})"
