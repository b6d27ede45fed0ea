"""Content hashes of files and folders, remembered in a cache so that a repeated look-up costs one `stat`.

A remembered hash holds while size, mtime, ctime and inode are the same. Every write changes the ctime, which no
program can set back. A file touched in the last two seconds is hashed but not remembered, since a later write
could carry the same time stamp. A cache that is lost or damaged costs time and nothing else.
"""

import contextlib
import hashlib
import os
import sqlite3
import time
from pathlib import Path

from ssdd.files import sha256_file

_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use, FAT's, ticks every two seconds
_Signature = tuple[int, int, int, int]


class Hashes:
    """SHA-256 of files and folders, through a cache file.

    Args:
        cache: the file that remembers; made when missing, begun again when damaged; None for no cache.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._path = cache
        self._database = _open(cache) if cache is not None else None

    def __enter__(self) -> "Hashes":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Saves the new hashes and closes the cache file."""
        if self._database is not None:
            self._write_down()
            self._database.close()
            self._database = None

    def of(self, path: Path) -> str | None:
        """Returns the hash of a file's content, or of a folder's names and contents; None where there is neither.

        Raises:
            OSError: it exists and cannot be read.
        """
        try:
            return self._folder(path) if path.is_dir() else self._file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            self._write_down()  # at once: an open transaction would lock out another run

    def _write_down(self) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.commit()

    def _folder(self, folder: Path) -> str:
        digest = hashlib.sha256()
        for file in sorted(_files(folder)):
            digest.update(f"{file.relative_to(folder).as_posix()}\0".encode("utf-8", "surrogateescape"))
            digest.update(self._file(file).encode() + b"\n")
        return digest.hexdigest()

    def _file(self, path: Path) -> str:
        name = os.path.abspath(path)
        signature = _signature(path)
        known = self._recall(name, signature)
        if known is not None:
            return known
        content = sha256_file(path)
        # The signature is read twice: if a write goes on while the file is read, the two differ.
        settled = time.time_ns() - max(signature[1], signature[2]) > _SETTLED_NS
        if settled and signature == _signature(path):
            self._remember(name, signature, content)
        return content

    def _recall(self, name: str, signature: _Signature) -> str | None:
        if self._database is None:
            return None
        try:
            query = "SELECT hash FROM hashes WHERE path=? AND size=? AND mtime=? AND ctime=? AND inode=?"
            row = self._database.execute(query, (name, *signature)).fetchone()
        except (sqlite3.Error, UnicodeEncodeError):  # damaged meanwhile, or a file name that is no valid text
            return None
        return row[0] if row and isinstance(row[0], str) and len(row[0]) == 64 else None

    def _remember(self, name: str, signature: _Signature, content: str) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error, UnicodeEncodeError):
                row = (name, *signature, content)
                self._database.execute("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?,?,?)", row)


def _signature(path: Path) -> _Signature:
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def _files(folder: Path) -> list[Path]:
    """Every file below a folder but hidden ones; links to folders are not followed."""
    # Desktops and editors write and remove hidden files (.DS_Store) while the images stay the same.
    found = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return [file for file in found if file.is_file()]


def _raise(error: OSError) -> None:
    raise error


def _open(path: Path) -> sqlite3.Connection | None:
    for _ in range(2):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(path, timeout=1.0)
            database.execute(
                "PRAGMA synchronous = OFF"
            )  # without a wait for the disk: a power cut costs at most the cache
            database.execute(
                "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, "
                "ctime INTEGER, inode INTEGER, hash TEXT)"
            )
            # An older or damaged table has other columns, and only a query shows it.
            database.execute("SELECT path, size, mtime, ctime, inode, hash FROM hashes LIMIT 1").fetchone()
            return database
        except (sqlite3.Error, OSError) as error:
            if "locked" in str(error):
                return None  # in use by another run, which must keep it
            with contextlib.suppress(OSError):
                path.unlink()
    return None
