"""Images in an object store or on a web server: single files, or tar shards. It is listed once, when it is opened."""

import io
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from ssdd.data.decoding import MAX_PIXELS, BadImage, Reason
from ssdd.data.image_folders import SUFFIXES, first_folder
from ssdd.data.source import TRAIN, Listing, Source
from ssdd.data.tar_images import TarImages
from ssdd.data.web_files import open_files


class RemoteFolder(Source):
    """All image files below an address, such as `s3://bucket/images`; all belong to the split `train`.

    Args:
        root: the address.
        max_pixels: larger pictures are refused as decompression bombs.

    Raises:
        ValueError: there is nothing at the address, or it cannot be opened.
        RemoteError: the store does not answer.
    """

    def __init__(self, root: str, *, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(max_pixels=max_pixels)
        self.files = open_files(root)
        self._versions: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"RemoteFolder({self.files.url!r})"

    def listing(self) -> Listing:
        """Returns the names of all candidate files, in the order of a folder's: its own files before its folders'."""
        self._versions = self.files.listing()
        names = [name for name in self._versions if _is_image(name)]
        return Listing(names={TRAIN: sorted(names, key=lambda name: _folder_by_folder(name))})

    def read(self, path: str) -> bytes:
        """Returns one file.

        Raises:
            BadImage: there is no such file.
            RemoteError: the store does not answer.
        """
        # The pass that lists the images reads them anew, and so replaces what the cache holds of earlier versions.
        return _found(lambda: self.files.read(path, version="", fresh=bool(self._versions)), path)

    def class_of(self, path: str) -> str:
        """Returns the first folder of a name; "" for an image outside of all folders."""
        return first_folder(path)

    def version(self, path: str) -> str:
        """Returns the size and tag that the store has listed; "" before `listing`."""
        return self._versions.get(path, "")


class RemoteTar(TarImages):
    """The images of all `.tar` files below an address; each image is one ranged read.

    Args:
        root: the address; braces may number the shards, as in `https://host/set/train-{000..127}.tar`.
        max_pixels: larger pictures are refused as decompression bombs.

    Raises:
        ValueError: there is no shard at the address, or it cannot be opened.
        RemoteError: the store does not answer.
    """

    def __init__(self, root: str, *, max_pixels: int = MAX_PIXELS) -> None:
        Source.__init__(self, max_pixels=max_pixels)
        self.files = open_files(root)
        self._versions = {name: version for name, version in self.files.listing().items() if name.endswith(".tar")}
        self.shards = list(self._versions)
        if not self.shards:
            raise ValueError(f"expected tar files at {self.files.url}, found none: check the address")
        for shard in (shard for shard, version in self._versions.items() if version.startswith("None")):
            raise ValueError(f"expected the size of {self.files.where(shard)}, its server does not tell it: copy it")

    def __repr__(self) -> str:
        return f"RemoteTar({self.files.url!r})"

    def bytes_of(self, shard: str, start: int, count: int) -> bytes:
        """Returns a part of a shard."""
        version = self._versions.get(shard, "")
        return _found(lambda: self.files.read(shard, start, count, version), shard)

    def version(self, path: str) -> str:
        """Returns the size and tag of the shard, as the store has listed them."""
        return self._versions.get(path[: path.index(".tar/") + 4], "unreadable")

    def open_shard(self, shard: str) -> BinaryIO:
        """Opens a shard to read its headers, in pieces."""
        return cast(BinaryIO, io.BufferedReader(_Ranges(self, shard), 2**20))


class _Ranges(io.RawIOBase):
    """A remote shard as a file, read in ranges with retries."""

    def __init__(self, source: RemoteTar, shard: str) -> None:
        self._source, self._shard, self._place = source, shard, 0
        self._size = int(source._versions[shard].partition(" ")[0])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(min(len(buffer), self._size - self._place), 0)
        data = self._source.files.read(self._shard, self._place, count) if count else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _found(read: Callable[[], bytes], path: str) -> bytes:
    try:
        return read()
    except FileNotFoundError as error:
        raise BadImage(Reason.MISSING, f"no {path!r} in the store") from error


def _is_image(name: str) -> bool:
    return (
        not any(part.startswith(".") for part in name.split("/")) and f".{name.rpartition('.')[2].lower()}" in SUFFIXES
    )


def _folder_by_folder(name: str) -> list[tuple[int, str]]:
    *folders, file = name.split("/")
    return [*((1, folder) for folder in folders), (0, file)]
