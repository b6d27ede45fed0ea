"""The images that a command line names: found in files and folders, read ahead of their use, called by name."""

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ssdd.data import BadImage, ImageFolder, Reason, Source, decode_image
from ssdd.data.decoding import read_image_file
from ssdd.data.image_folders import SUFFIXES
from ssdd.data.source import TRAIN, Listing, Rejection

READERS = min(4, os.cpu_count() or 1)
_AHEAD = 2 * READERS  # pictures decoded before they are asked for


@dataclass(frozen=True)
class Found:
    """An image file.

    Args:
        name: what it is called: relative to the folder it was found in (with `/`), or its file name.
        file: where it is.
    """

    name: str
    file: Path


def find(places: Sequence[Path], leave_out: Path | None = None) -> tuple[list[Found], list[Rejection]]:
    """Finds images, in an order that depends on their names alone.

    Args:
        places: image files, and folders whose files at any depth are taken (names with a leading dot are not).
        leave_out: a folder that is passed over, such as the one that results go to.

    Returns:
        the candidates, unread; and what cannot be one, with the reason.

    Raises:
        ValueError: two images would have the same name.
    """
    found: list[Found] = []
    rejected: list[Rejection] = []
    for place in places:
        if place.is_dir():
            images, bad = _in_folder(place, leave_out)
            found += images
            rejected += bad
        else:
            found.append(Found(place.name, place))
    names: dict[str, Path] = {}
    for item in found:
        other = names.setdefault(item.name, item.file)
        if other is not item.file:
            raise ValueError(
                f"expected images of different names, got {other} and {item.file}: give a folder that holds both"
            )
    return found, rejected


class NamedImages(Source):
    """What `find` finds, as a source of data sets.

    Args:
        places: see `find`.

    Raises:
        ValueError: two images would have the same name.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        super().__init__()
        found, self._rejected = find(places)
        self._files = {item.name: item.file for item in found}
        self._places = ", ".join(str(place) for place in places)

    def __repr__(self) -> str:
        return self._places

    def listing(self) -> Listing:
        """Returns the names of the images; only folders are read."""
        return Listing(names={TRAIN: list(self._files)}, rejected=self._rejected)

    def read(self, path: str) -> bytes:
        """Returns the bytes of one file.

        Raises:
            BadImage: it cannot be read.
        """
        return read_image_file(self._files[path])


def read_all(found: Sequence[Found]) -> Iterator[tuple[Found, Image.Image | BadImage]]:
    """Yields each image, upright and RGB, or why there is none; in order, a few of them read ahead by threads."""
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        waiting: deque[tuple[Found, Future[Image.Image | BadImage]]] = deque()
        for item in found:
            waiting.append((item, pool.submit(_read, item.file)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def output_names(names: Sequence[str]) -> list[str]:
    """Returns the PNG to write for each name: `a/b.jpg` -> `a/b.png`, or `a/b.jpg.png` where `b.png` would be two."""
    outputs = {name: str(Path(name).with_suffix(".png")) for name in names}
    while True:
        users: dict[str, list[str]] = {}
        for name, output in outputs.items():
            users.setdefault(output, []).append(name)
        longer = {name: f"{name}.png" for shared in users.values() if len(shared) > 1 for name in shared}
        if all(outputs[name] == output for name, output in longer.items()):
            return [outputs[name] for name in names]
        outputs |= longer


def _read(file: Path) -> Image.Image | BadImage:
    try:
        return decode_image(read_image_file(file))
    except BadImage as bad:
        return bad


def _in_folder(folder: Path, leave_out: Path | None) -> tuple[list[Found], list[Rejection]]:
    listing = ImageFolder(folder).listing()
    rejected = listing.rejected + _without_suffix(folder)
    here, out = folder.resolve(), leave_out.resolve() if leave_out else None
    if out is not None and out != here and out.is_relative_to(here):
        inside = out.relative_to(here).as_posix() + "/"
        listing.names[TRAIN] = [name for name in listing.names[TRAIN] if not name.startswith(inside)]
        rejected = [bad for bad in rejected if not bad.path.startswith(inside)]
    return [Found(name, folder / name) for name in listing.names[TRAIN]], rejected


def _without_suffix(folder: Path) -> list[Rejection]:
    """Files that the search passed over because their names are not those of images."""
    passed: list[Rejection] = []
    seen: set[tuple[int, int]] = set()
    for place, below, files in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if not name.startswith(".") and Path(name).suffix not in SUFFIXES)
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() not in SUFFIXES and _is_file(Path(place, name)):
                detail = f"its name ends in {Path(name).suffix or 'no suffix'!r}, which is not an image's"
                path = Path(place, name).relative_to(folder).as_posix()
                passed.append(Rejection(path=path, reason=Reason.NOT_AN_IMAGE, detail=detail))
    return passed


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
