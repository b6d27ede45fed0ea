"""Images as files: one folder (flat, nested, or one sub-folder per class) or the ImageNet layout."""

import os
from pathlib import Path, PurePosixPath

from ssdd.data.decoding import MAX_PIXELS, BadImage, Reason, os_error_reason, read_image_file
from ssdd.data.source import TRAIN, VALIDATION, Listing, Rejection, Source

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
"""A file is a candidate by its suffix (in any case); names that start with a dot are passed over."""


class ImageFolder(Source):
    """All image files below a folder; every one belongs to the split `train`.

    Names are relative to the folder, with `/`, and sorted folder by folder, so that they and their order are
    the same on another machine. Links are followed, but each real folder is searched once.

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
        names, rejected = search(self.root)
        return Listing(names={TRAIN: names}, rejected=rejected)

    def read(self, path: str) -> bytes:
        """Returns the bytes of one file.

        Args:
            path: relative to the root.

        Raises:
            BadImage: it cannot be read.
            ValueError: the name leads out of the root.
        """
        parts = PurePosixPath(path)
        if parts.is_absolute() or ".." in parts.parts:
            raise ValueError(f"expected a path inside {str(self.root)!r}, got {path!r}: prepare the index again")
        return read_image_file(self.root / parts)

    def version(self, path: str) -> str:
        """Returns a file's size and time of change."""
        try:
            status = os.stat(self.root / path)
        except OSError:
            return "unreadable"
        return f"{status.st_size} {status.st_mtime_ns}"


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

    def listing(self) -> Listing:
        """Returns the names below `train` and `val`; only folders are read."""
        names: dict[str, list[str]] = {}
        rejected: list[Rejection] = []
        for split, folder in self.splits.items():
            names[split], bad = search(self.root, folder)
            rejected += bad
        return Listing(names=names, rejected=rejected)


def search(root: Path, start: str = "") -> tuple[list[str], list[Rejection]]:
    """Returns the candidate files below `root/start` in sorted order, and what cannot be searched.

    Args:
        root: names are relative to it.
        start: sub-folder to search, or "" for all.

    Raises:
        OSError: `root/start` itself cannot be searched.
    """
    names: list[str] = []
    rejected: list[Rejection] = []
    seen: set[tuple[int, int]] = set()
    pending = [start]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                raise BadImage(Reason.SEEN, "this folder is part of the search under another name")
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(root / folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            if folder == start:  # nothing can be found without it
                raise
            rejected.append(_rejection(folder, os_error_reason(error)))
            continue
        except BadImage as bad:
            rejected.append(_rejection(folder, bad))
            continue
        below: list[str] = []
        for entry in entries:
            _sort_in(entry, folder, names, below, rejected)
        pending += reversed(below)
    return names, rejected


def _sort_in(
    entry: os.DirEntry[str], folder: str, names: list[str], below: list[str], rejected: list[Rejection]
) -> None:
    """Puts one entry where it belongs: a candidate, a folder to search, a rejection, or nowhere."""
    if entry.name.startswith("."):
        return
    path = f"{folder}/{entry.name}" if folder else entry.name
    looks_like_image = os.path.splitext(entry.name)[1].lower() in SUFFIXES
    try:
        if not _is_unicode(entry.name):
            if looks_like_image or entry.is_dir():
                raise BadImage(Reason.NAME, "rename it: an index keeps names as UTF-8")
        elif looks_like_image:
            names.append(path)  # a folder named x.png too: reading it tells the reason
        elif entry.is_dir():
            below.append(path)
        elif entry.is_symlink():
            os.stat(entry.path)  # a loop of links, or one that leads nowhere, may have been a folder
    except OSError as error:
        rejected.append(_rejection(path, os_error_reason(error)))
    except BadImage as bad:
        rejected.append(_rejection(path, bad))


def _is_unicode(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _rejection(path: str, bad: BadImage) -> Rejection:
    printable = path.encode("utf-8", "backslashreplace").decode("utf-8")
    return Rejection(path=printable, reason=bad.reason, detail=bad.detail)
