"""Files in an object store or on a web server, by fsspec: listed, read with retries, and kept in a bounded local cache.

Credentials are those of the environment (such as AWS_PROFILE or AWS_ACCESS_KEY_ID) or of fsspec's own configuration.
An address that holds any is refused, so that none can get into an index, a message or a stamp.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ssdd.files import atomic_write

T = TypeVar("T")

TRIES = 5
WAIT = 0.5  # seconds before the second try; each further one waits twice as long
CACHE = "SSDD_REMOTE_CACHE"  # environment: the cache's folder
CACHE_GB = "SSDD_REMOTE_CACHE_GB"  # its largest size; 0 for no cache
_DEFAULT_GB = 10.0
EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "abfs": "azure", "abfss": "azure", "az": "azure"}
EXTRAS |= {"http": "http", "https": "http"}
"""Scheme of an address -> the extra of this package that brings fsspec's part for it."""

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")


class RemoteError(OSError):
    """A remote file that could not be read after several tries."""


def is_remote(place: str) -> bool:
    """Whether a place is an address, such as `s3://bucket/folder`, and no path of this machine."""
    return _URL.match(place) is not None


class RemoteFiles:
    """The files below an address. It is picklable, and each process opens a connection of its own.

    Args:
        url: of a folder, such as `s3://bucket/images`, `gs://bucket/images` or `abfs://container/images`.

    Raises:
        ValueError: the address holds credentials, or no package for its kind is installed.
    """

    def __init__(self, url: str) -> None:
        scheme, _, rest = url.partition("://")
        if "@" in rest.partition("/")[0] or "?" in rest:
            raise ValueError(
                f"expected an address without credentials or a query, got one of {scheme}://: put them into the "
                "environment, since addresses are written into logs"
            )
        self.url, self.scheme = url.rstrip("/"), scheme
        self._opened: tuple[int, Any] | None = None
        self._written = 0
        self._filesystem()

    def __repr__(self) -> str:
        return f"RemoteFiles({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

    def listing(self) -> dict[str, str]:
        """Returns the versions of all files below the address by their relative names, sorted.

        Raises:
            RemoteError: the store does not answer.
            ValueError: there is nothing at the address.
        """
        root = self._filesystem()._strip_protocol(self.url).rstrip("/")
        try:
            found = self._try(lambda fs: fs.find(root, detail=True), self.url)
        except FileNotFoundError:
            found = {}
        files = {path[len(root) + 1 :]: version_of(facts) for path, facts in found.items()}
        if not files:
            raise ValueError(f"expected files at {self.url}, found none: check the address")
        return dict(sorted(files.items()))

    def where(self, name: str) -> str:
        """Returns the address of a file."""
        return f"{self.url}/{name}"

    def read(
        self,
        name: str,
        start: int | None = None,
        count: int | None = None,
        version: str | None = None,
        fresh: bool = False,
    ) -> bytes:
        """Returns a file, or a part of it.

        Args:
            name: relative to the address.
            start, count: of the part, bytes.
            version: the cache keeps it under; None keeps nothing.
            fresh: read it anew, and replace what the cache holds.

        Raises:
            FileNotFoundError: there is no such file.
            RemoteError: the store does not answer.
        """
        end = None if count is None else (start or 0) + count
        where = self.where(name)
        kept = self._place(f"{where} {version} {start} {end}") if version is not None else None
        if kept is not None and not fresh:
            with contextlib.suppress(OSError):
                found = kept.read_bytes()
                os.utime(kept)  # the files used last stay longest
                return found
        data: bytes = self._try(lambda fs: fs.cat_file(where, start=start, end=end), where)
        if count is not None and len(data) > count:
            raise RemoteError(
                f"expected {count} bytes of {where}, got {len(data)}: its server sends whole files only; "
                "copy the shards to this machine, or to a server that knows byte ranges"
            )
        if kept is not None:
            self._keep(kept, data)
        return data

    def _try(self, call: Callable[[Any], T], where: str) -> T:
        for number in range(TRIES):
            try:
                return call(self._filesystem())
            except FileNotFoundError:
                raise
            except PermissionError as error:
                raise RemoteError(f"{where} may not be read: check the credentials in the environment") from error
            except Exception as error:  # each store has errors of its own
                if number + 1 == TRIES:
                    # Without the error's text, which may hold a signed address.
                    status = getattr(error, "status", None)  # of a web server
                    kind = f"{type(error).__name__} {status}" if isinstance(status, int) else type(error).__name__
                    raise RemoteError(
                        f"cannot read {where}: {TRIES} tries failed, the last one with {kind}; check "
                        "the network and the address, and run again: what was read so far is kept"
                    ) from None
                time.sleep(WAIT * 2**number)
        raise AssertionError

    def _filesystem(self) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():  # a connection does not survive a fork
            import fsspec

            try:
                filesystem = fsspec.filesystem(self.scheme, skip_instance_cache=True, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                extra = EXTRAS.get(self.scheme)
                advice = f"; pip install 'ssdd[{extra}]'" if extra and isinstance(error, ImportError) else ""
                raise ValueError(f"cannot open {self.scheme}:// addresses: {error}{advice}") from error
            self._opened = (os.getpid(), filesystem)
        return self._opened[1]

    def _place(self, key: str) -> Path | None:
        if _limit() == 0:
            return None
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        return cache_folder() / digest[:2] / digest[2:]

    def _keep(self, kept: Path, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk: the cache is a convenience
            with atomic_write(kept) as temporary:
                temporary.write_bytes(data)
            self._written += len(data)
            if self._written > _limit() / 20:  # looking through the folder costs time
                self._written = 0
                shrink_cache()


def cache_folder() -> Path:
    """Returns the folder of the cache."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "ssdd" / "remote")


def shrink_cache() -> None:
    """Removes the files used longest ago until a twentieth of the cache's size is free."""
    files = []
    for folder in cache_folder().glob("??"):
        with contextlib.suppress(OSError), os.scandir(folder) as scan:
            for entry in scan:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    files.append((status.st_mtime_ns, status.st_size, entry.path))
    excess = sum(size for _, size, _ in files) - _limit() * 0.95
    for _, size, path in sorted(files):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
            excess -= size


def _limit() -> float:
    return float(os.environ.get(CACHE_GB) or _DEFAULT_GB) * 1e9


def version_of(facts: dict[str, Any]) -> str:
    """Returns size and tag, or time, of a file, as its store lists them."""
    tag = (
        facts.get("ETag")
        or facts.get("etag")
        or facts.get("md5Hash")
        or facts.get("LastModified")
        or facts.get("Last-Modified")
        or facts.get("mtime")
    )
    return f"{facts.get('size')} {tag or ''}"
