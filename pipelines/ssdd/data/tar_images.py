"""Images in tar files, such as the shards of a WebDataset: indexed once, then read in any order.

A name states the place of its image: `<shard>/<offset>+<size>/<name in the shard>`. Workers therefore need no table of
offsets, and an index of a million images costs them no memory.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ssdd.data.decoding import MAX_FILE_BYTES, MAX_PIXELS, BadImage, Reason, os_error_reason
from ssdd.data.image_folders import SUFFIXES, check_name, first_folder
from ssdd.data.source import TRAIN, VALIDATION, Listing, Rejection, Source

_NAME = re.compile(r"(?P<shard>.+\.tar)/(?P<offset>\d+)\+(?P<size>\d+)/(?P<name>.+)")
_HELD_OUT = re.compile(r"(^|[/_.-])(val|valid|validation|test)([/_.-]|\d|$)")
_BLOCK = 512  # bytes of a header in a tar


class TarImages(Source):
    """The images of all `.tar` files below a folder.

    A shard whose path holds the word `val`, `valid`, `validation` or `test` belongs to the split `validation`. The
    class of an image is its folder in the shard, or the text of the file `<key>.cls` beside it.

    Args:
        root: the folder of the shards.
        max_pixels: larger pictures are refused as decompression bombs.

    Raises:
        ValueError: there is no such folder, or no shard in it.
    """

    def __init__(self, root: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(max_pixels=max_pixels)
        self.root = Path(root)
        self.shards = sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*.tar"))
        if not self.shards:
            packed = next(iter(self.root.rglob("*.tar.*")), None) if self.root.is_dir() else None
            hint = f"{packed.name} is compressed, and cannot be read in any order: unpack it" if packed else "check it"
            raise ValueError(f"expected tar files in the folder {str(self.root)!r}, found none: {hint}")

    def __repr__(self) -> str:
        return f"TarImages({str(self.root)!r})"

    def listing(self) -> Listing:
        """Returns one name for each image in the shards, in their order there; only the headers are read.

        Raises:
            ValueError: a shard is damaged.
        """
        names: dict[str, list[str]] = {}
        rejected: list[Rejection] = []
        for shard in self.shards:
            split = VALIDATION if _HELD_OUT.search(shard.removesuffix(".tar")) else TRAIN
            for item in self._members(shard):
                if isinstance(item, Rejection):
                    rejected.append(item)
                else:
                    names.setdefault(split, []).append(item)
        return Listing(
            names={split: names[split] for split in (TRAIN, VALIDATION) if split in names}, rejected=rejected
        )

    def read(self, path: str) -> bytes:
        """Returns the bytes of one image, in one read.

        Raises:
            BadImage: the shard cannot be read, or has changed.
            ValueError: the name is of another source, or leads out of the root.
        """
        match = _NAME.fullmatch(path)
        if match is None or ".." in PurePosixPath(match["shard"]).parts or match["shard"].startswith("/"):
            raise ValueError(f"expected a name like 'a.tar/1536+2048/b.jpg', got {path!r}: prepare the index again")
        offset, size = int(match["offset"]), int(match["size"])
        if size > MAX_FILE_BYTES:
            raise BadImage(Reason.TOO_LARGE, f"{size} bytes, at most {MAX_FILE_BYTES} are read")
        found = self.bytes_of(match["shard"], offset - _BLOCK, _BLOCK + size)
        header, data = found[:_BLOCK], found[_BLOCK:]
        # The header in front of the data costs no further read, and tells a shard that was replaced.
        try:
            if len(data) != size or tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size != size:
                raise tarfile.HeaderError
        except tarfile.HeaderError as error:
            raise BadImage(Reason.TRUNCATED, "the shard has changed since it was indexed") from error
        return data

    def bytes_of(self, shard: str, start: int, count: int) -> bytes:
        """Returns a part of a shard; less at its end.

        Raises:
            BadImage: it cannot be read.
        """
        try:
            with open(self.root / shard, "rb", buffering=0) as file:
                file.seek(start)
                return file.read(count)
        except OSError as error:
            raise os_error_reason(error) from error

    def open_shard(self, shard: str) -> BinaryIO:
        """Opens a shard, whose headers are read."""
        return open(self.root / shard, "rb")

    def class_of(self, path: str) -> str:
        """Returns the first folder of the name in the shard; "" where there is none."""
        match = _NAME.fullmatch(path)
        return first_folder(match["name"]) if match else ""

    def version(self, path: str) -> str:
        """Returns the size, times and number of the shard's file."""
        shard = path[: path.index(".tar/") + 4]
        try:
            status = os.stat(self.root / shard)
        except OSError:
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"

    def _members(self, shard: str) -> Iterator[str | Rejection]:
        try:
            with self.open_shard(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
                yield from _names(shard, tar)
        except (tarfile.TarError, OSError) as error:
            raise ValueError(
                f"cannot list the images in {shard!r} of {self!r}: {error}; copy the shard again"
            ) from error


def _names(shard: str, tar: tarfile.TarFile) -> Iterator[str | Rejection]:
    """Yields the name of each image of a shard; files of one key stand together, as WebDataset writes them."""
    key, label = "", ""
    images: list[tuple[str, str]] = []
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # the library would keep every header in memory
        place = f"{shard}/{member.name}"
        stem, suffix = os.path.splitext(member.name)
        if stem != key:
            yield from _labelled(images, label)
            key, images, label = stem, [], ""
        if suffix == ".cls" and member.isfile():
            file = tar.extractfile(member)
            label = file.read(64).decode("utf-8", "replace").strip().replace("/", "_") if file else ""
        elif suffix.lower() in SUFFIXES and not os.path.basename(member.name).startswith("."):
            if not member.isfile() or member.sparse is not None:
                yield Rejection.of(place, BadImage(Reason.SPECIAL, "no plain file in its shard"))
                continue
            try:
                check_name(member.name)
            except BadImage as bad:
                yield Rejection.of(place, bad)
                continue
            images.append((f"{shard}/{member.offset_data}+{member.size}", member.name.removeprefix("./")))
    yield from _labelled(images, label)


def _labelled(images: list[tuple[str, str]], label: str) -> Iterator[str]:
    for place, name in images:
        yield f"{place}/{label}/{name}" if label else f"{place}/{name}"
