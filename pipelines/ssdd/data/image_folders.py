"""Image files: one folder (flat, nested, or one sub-folder per class) or the ImageNet layout."""

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ssdd.data.decoding import MAX_PIXELS, BadImage, Reason, os_error_reason, read_image_file
from ssdd.data.source import TRAIN, VALIDATION, Listing, Rejection, Source
from ssdd.texts import is_unicode

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".tif",
        ".tiff",
        ".bmp",
        ".ppm",
        ".pgm",
        ".pnm",
        ".jp2",
        ".avif",
    ]
)
"""The suffix, in any case, makes a file a candidate; opening every file to look would double the time."""


class ImageFolder(Source):
    """All image files below a folder; all belong to the split `train`.

    Names are relative to the folder, with `/`, and sorted folder by folder: the names and their order are the same on
    another machine. Links are followed, but each real folder is searched once, so that a loop of links ends.

    Args:
        root: the folder.
        max_pixels: larger pictures are refused as decompression bombs.

    Raises:
        ValueError: `root` is not a folder.
    """

    def __init__(self, root: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(max_pixels=max_pixels)
        self.root = Path(root)
        if not self.root.is_dir():
            found = "a file" if self.root.exists() else "nothing there"
            raise ValueError(f"expected a folder of images at {str(self.root)!r}, found {found}: check the path")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    def listing(self) -> Listing:
        """Returns the names of all candidate files; only folders are read."""
        found = search_folder(self.root)
        return Listing(names={TRAIN: found.images}, rejected=found.rejected)

    def read(self, path: str) -> bytes:
        """Returns the bytes of one file.

        Args:
            path: relative to the root.

        Raises:
            BadImage: the file cannot be read.
            ValueError: the name leads out of the root.
        """
        # An index may come from somebody else: its paths must not open files outside the root.
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            raise ValueError(f"expected a path inside {str(self.root)!r}, got {path!r}: prepare the index again")
        return read_image_file(self.root / parts)

    def class_of(self, path: str) -> str:
        """Returns the first folder of a name, at any depth below it; "" for an image outside of all folders."""
        return first_folder(path)

    def version(self, path: str) -> str:
        """Returns a file's size, times and number on the disk; every write changes one of them."""
        try:
            status = os.stat(os.path.join(self.root, path))
        except OSError:
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


class ImageNetFolder(ImageFolder):
    """The ImageNet layout: `train/` and `val/` below one root, each flat or one folder per class.

    Args:
        root: the folder that holds `train` and `val` (one of them is enough).
        max_pixels: larger pictures are refused as decompression bombs.

    Raises:
        ValueError: neither folder is there.
    """

    FOLDERS = {TRAIN: "train", VALIDATION: "val"}  # noqa: RUF012

    def __init__(self, root: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> None:
        super().__init__(root, max_pixels=max_pixels)
        self.splits = {split: name for split, name in self.FOLDERS.items() if os.path.isdir(self.root / name)}
        if not self.splits:
            raise ValueError(
                f"expected the folders 'train' and 'val' in {str(self.root)!r}, found neither: give the "
                "folder that holds them, or use the source 'folder'"
            )

    def class_of(self, path: str) -> str:
        """Returns the folder below `train` or `val`, such as `n01440764`."""
        return first_folder(path.partition("/")[2])

    def listing(self) -> Listing:
        """Returns the names below `train` and `val`; only folders are read."""
        names: dict[str, list[str]] = {}
        rejected: list[Rejection] = []
        for split, folder in self.splits.items():
            found = search_folder(self.root, folder)
            names[split] = found.images
            rejected += found.rejected
        return Listing(names=names, rejected=rejected)


def first_folder(path: str) -> str:
    """Returns the first folder of a relative path; "" for a file outside of all folders."""
    return path.partition("/")[0] if "/" in path else ""


@dataclass
class FolderContents:
    """The findings of one search, in sorted order, folder by folder.

    Args:
        images: paths of candidates, relative to the root.
        others: paths of files without an image's suffix; names that start with a dot are not listed at all.
        rejected: entries that cannot be used or searched.
    """

    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


def search_folder(root: Path, start: str = "") -> FolderContents:
    """Searches `root/start` at any depth; only folders are read.

    Args:
        root: paths are relative to it.
        start: sub-folder to search, or "" for all.

    Raises:
        OSError: `root/start` itself cannot be searched.
    """
    found = FolderContents()
    seen: set[tuple[int, int]] = set()
    pending = [start]  # a stack and no recursion: a tree may be deeper than Python's stack
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                raise BadImage(Reason.SEEN, "this folder is part of the search under another name")
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)  # disks list entries in any order
        except OSError as error:
            if folder == start:  # without the start there is nothing to search: no rejection, an error
                raise
            found.rejected.append(Rejection.of(folder, os_error_reason(error)))
            continue
        except BadImage as bad:
            found.rejected.append(Rejection.of(folder, bad))
            continue
        below: list[str] = []
        for entry in entries:
            _sort_in(entry, folder, found, below)
        pending += reversed(below)
    return found


def _sort_in(entry: os.DirEntry[str], folder: str, found: FolderContents, below: list[str]) -> None:
    """Adds one entry to the findings, or to the folders to search next (`below`)."""
    if entry.name.startswith("."):
        return
    path = f"{folder}/{entry.name}" if folder else entry.name
    looks_like_image = os.path.splitext(entry.name)[1].lower() in SUFFIXES
    try:
        if looks_like_image or entry.is_dir():
            check_name(entry.name)
        if looks_like_image:
            found.images.append(path)  # a folder named x.png too: reading it gives the reason
        elif entry.is_dir():
            below.append(path)
        elif entry.is_file():
            found.others.append(path)
        elif entry.is_symlink():
            os.stat(entry.path)  # raises: a loop of links, or a link to nowhere, may have been meant as a folder
    except OSError as error:
        found.rejected.append(Rejection.of(path, os_error_reason(error)))
    except BadImage as bad:
        found.rejected.append(Rejection.of(path, bad))


def check_name(name: str) -> None:
    """Refuses a name that no table and no file of latents could hold.

    Raises:
        BadImage: the bytes of the name are not UTF-8.
    """
    if not is_unicode(name):
        raise BadImage(Reason.NAME, "rename it: an index keeps names as UTF-8")
