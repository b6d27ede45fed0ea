"""Content hashes of files and folders, remembered in a cache so that a repeated look-up costs one `stat`.

A remembered hash holds while size, mtime, ctime and inode are the same. Every write changes the ctime, which no
program can set back. A file touched in the last two seconds is hashed but not remembered, since a later write
could carry the same time stamp. A cache that is lost or damaged costs time and nothing else.
"""

import contextlib
import errno
import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from ssdd.files import sha256_file
from ssdd.sqlite_caches import Cache, portions, write_down

_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system in use, FAT's, ticks every two seconds
_BATCH = 2048  # files of a folder that are looked up, or read, at a time; bounds the memory of a large folder
_THREADS = 8  # that read files: hashing releases the interpreter's lock, and network disks answer late
_TABLES = (
    "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, "
    "ctime INTEGER, inode INTEGER, hash TEXT)",
    "SELECT path, size, mtime, ctime, inode, hash FROM hashes LIMIT 1",
    "CREATE TABLE IF NOT EXISTS results (name TEXT PRIMARY KEY, source TEXT, result TEXT, checksum TEXT)",
    "SELECT name, source, result, checksum FROM results LIMIT 1",
)
_Signature = tuple[int, int, int, int]


class Hashes(Cache):
    """SHA-256 of files and folders, through a cache file.

    Args:
        cache: the file that remembers; made when missing, begun again when damaged; None for no cache.
    """

    def __init__(self, cache: Path | None = None) -> None:
        super().__init__(cache, _TABLES)

    def of(self, path: Path) -> str | None:
        """Returns the hash of a file's content, or of a folder's names and contents; None where there is neither.

        Raises:
            OSError: it exists and cannot be read.
        """
        try:
            if path.is_dir():
                return self._folder(os.path.abspath(path))
            return self._contents([(os.path.abspath(path), os.stat(path))], None)[0]
        except (FileNotFoundError, NotADirectoryError):
            return None
        finally:
            write_down(self._database)

    def recall(self, name: str, source: str) -> str | None:
        """Returns what `remember` was given for this name and the same source; None if it is not known."""
        if self._database is None:
            return None
        query = "SELECT result, checksum FROM results WHERE name = ? AND source = ?"
        with contextlib.suppress(sqlite3.Error):
            found = self._database.execute(query, (name, source)).fetchone()
            if found is not None and found[1] == _checksum(name, source, str(found[0])):
                return str(found[0])
        return None

    def remember(self, name: str, source: str, result: str) -> None:
        """Remembers what was computed from files with the hash `source`, until it is computed from others."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                row = (name, source, result, _checksum(name, source, result))
                self._database.execute("INSERT OR REPLACE INTO results VALUES (?,?,?,?)", row)
            write_down(self._database)

    def _folder(self, folder: str) -> str:
        digest, files = hashlib.sha256(), _files(folder)
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as readers:
            while batch := list(islice(files, _BATCH)):
                for (path, _), content in zip(batch, self._contents(batch, readers), strict=True):
                    name = os.path.relpath(path, folder) if os.sep != "/" else path[len(folder.rstrip("/")) + 1 :]
                    digest.update(f"{name.replace(os.sep, '/')}\0".encode("utf-8", "surrogateescape"))
                    digest.update(content.encode() + b"\n")
                write_down(self._database)  # what was read counts, even if this process is killed
        return digest.hexdigest()

    def _contents(self, files: list[tuple[str, os.stat_result]], readers: ThreadPoolExecutor | None) -> list[str]:
        """Returns the hashes of files, from the cache or from their contents."""
        signatures = {path: _signature(status) for path, status in files}
        known = self._recall(signatures)
        unknown = [path for path, _ in files if path not in known]
        read = readers.map(sha256_file, unknown) if readers and len(unknown) > 1 else map(sha256_file, unknown)
        for path, content in zip(unknown, read, strict=True):
            known[path] = content
            before = signatures[path]
            # The signature is read twice: if a write goes on while the file is read, the two differ.
            settled = time.time_ns() - max(before[1], before[2]) > _SETTLED_NS
            if settled and before == _signature(os.stat(path)):
                self._remember(path, before, content)
        return [known[path] for path, _ in files]

    def _recall(self, signatures: dict[str, _Signature]) -> dict[str, str]:
        found: dict[str, str] = {}
        if self._database is None:
            return found
        paths = [path for path in signatures if _is_text(path)]
        try:
            for part, questions in portions(paths):
                for path, *signature, content in self._database.execute(
                    f"SELECT path, size, mtime, ctime, inode, hash FROM hashes WHERE path IN {questions}", part
                ):
                    if tuple(signature) == signatures[path] and isinstance(content, str) and len(content) == 64:
                        found[path] = content
        except sqlite3.Error:  # damaged meanwhile
            return {}
        return found

    def _remember(self, name: str, signature: _Signature, content: str) -> None:
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error, UnicodeEncodeError):
                row = (name, *signature, content)
                self._database.execute("INSERT OR REPLACE INTO hashes VALUES (?,?,?,?,?,?)", row)


def _checksum(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _signature(status: os.stat_result) -> _Signature:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _is_text(path: str) -> bool:
    """Whether SQLite can hold a path; a file name may be no valid text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yields every file below a folder but hidden ones, sorted folder by folder; links to folders are not followed.

    One at a time: the paths of a million files, all at once, would take half a gigabyte.
    """
    pending = [_entries(folder)]  # a stack and no recursion: a tree may be deeper than Python's stack
    while pending:
        entry = next(pending[-1], None)
        if entry is None:
            pending.pop()
        elif entry.is_dir(follow_symlinks=False):
            pending.append(_entries(entry.path))
        elif (status := _status(entry)) is not None and stat.S_ISREG(status.st_mode):
            yield entry.path, status


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Returns an entry's status; None for a link that leads nowhere, or in a circle."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    # Desktops and editors write and remove hidden files (.DS_Store) while the images stay the same.
    with os.scandir(folder) as scan:
        return iter(sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name))
