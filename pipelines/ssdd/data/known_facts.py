"""The facts of images that an earlier pass has read, so that a later pass reads only new and changed ones.

They also make a pass that was interrupted continue. An image is known by its name and its version (for a file: size,
times and inode). The facts hold for the code that found them; other code begins again.
"""

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssdd.data.source import ImageFacts
from ssdd.sqlite_caches import Cache, portions, write_down
from ssdd.texts import utf8

_COLUMNS = "path, version, width, height, size, sha256, note"
_TABLES = (
    "CREATE TABLE IF NOT EXISTS places (number INTEGER PRIMARY KEY, place TEXT UNIQUE, method TEXT)",
    "CREATE TABLE IF NOT EXISTS facts (place INTEGER, path TEXT, version TEXT, width INTEGER, height INTEGER, "
    "size INTEGER, sha256 BLOB, note TEXT, PRIMARY KEY (place, path)) WITHOUT ROWID",
    "SELECT number, place, method FROM places LIMIT 1",
    f"SELECT place, {_COLUMNS} FROM facts LIMIT 1",
)


class KnownFacts(Cache):
    """Facts of the images of one source, in a cache file that several sources share.

    Args:
        file: the cache; made when missing, begun again when damaged; None remembers nothing.
        place: of the images; two sources of one place have the same images.
        method: of the code that finds the facts; facts of another method are forgotten.
        anew: forget all facts of this place.
    """

    def __init__(self, file: Path | None, place: str = "", method: str = "", anew: bool = False) -> None:
        super().__init__(file, _TABLES)
        self._place = 0
        if self._database is not None:
            try:
                self._place = _number(self._database, utf8(place), method, anew)  # of a folder of any name
            except sqlite3.Error:
                self.close()

    def recall(self, versions: Mapping[str, str]) -> dict[str, ImageFacts]:
        """Returns the known facts of images by their names.

        Args:
            versions: of the images, by their names; one without a version is not known.
        """
        found: dict[str, ImageFacts] = {}
        if self._database is None:
            return found
        try:
            for part, questions in portions([name for name, version in versions.items() if version]):
                query = f"SELECT {_COLUMNS} FROM facts WHERE place=? AND path IN {questions}"
                for path, version, width, height, size, sha256, note in self._database.execute(
                    query, (self._place, *part)
                ):
                    if version == versions[path] and isinstance(sha256, bytes):
                        found[path] = ImageFacts(width=width, height=height, size=size, sha256=sha256.hex(), note=note)
        except sqlite3.Error:  # damaged meanwhile
            return {}
        return found

    def remember(self, facts: Sequence[tuple[str, str, ImageFacts]]) -> None:
        """Keeps the facts of images: name, version, facts. It writes at once: a process may be killed at any time."""
        if self._database is None:
            return
        rows = [
            (self._place, name, version, item.width, item.height, item.size, bytes.fromhex(item.sha256), item.note)
            for name, version, item in facts
        ]
        with contextlib.suppress(sqlite3.Error):  # a full disk: the pass itself needs no cache
            self._database.executemany("INSERT OR REPLACE INTO facts VALUES (?,?,?,?,?,?,?,?)", rows)
        write_down(self._database)


def _number(database: sqlite3.Connection, place: str, method: str, anew: bool) -> int:
    """Returns the number of a place, whose facts are all of this method."""
    row = database.execute("SELECT number, method FROM places WHERE place=?", (place,)).fetchone()
    if row is None:
        number = database.execute("INSERT INTO places (place, method) VALUES (?,?)", (place, method)).lastrowid
    else:
        number = row[0]
        if anew or row[1] != method:
            database.execute("DELETE FROM facts WHERE place=?", (number,))
            database.execute("UPDATE places SET method=? WHERE number=?", (method, number))
    database.commit()
    return int(number or 0)
