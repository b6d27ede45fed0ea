"""The images of a command line: found in files and folders, named, and read ahead of their use."""

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ssdd.data.decoding import BadImage, Reason, decode_image, read_image_file
from ssdd.data.image_folders import check_name, first_folder, search_folder
from ssdd.data.source import TRAIN, Listing, Rejection, Source

THREADS = min(4, os.cpu_count() or 1)  # for decoding and compression; more would only fill memory with pictures
LONGEST_NAME = 255  # bytes of a file name, on nearly every file system
_AHEAD = 2 * THREADS  # pictures that are decoded before their use


@dataclass(frozen=True)
class ImageFile:
    """A file that may hold an image.

    Args:
        name: path relative to the searched folder (with `/`), or the file name of a file that was named itself.
        file: path of the file.
    """

    name: str
    file: Path


def find_images(places: Sequence[Path], leave_out: Path | None = None) -> tuple[list[ImageFile], list[Rejection]]:
    """Finds images, in an order that depends on their names alone.

    Args:
        places: image files, and folders, which are searched at any depth (names with a leading dot do not count).
        leave_out: a folder to leave out of the search, such as that of the results.

    Returns:
        the candidates, unread; and the other files, with the reason.

    Raises:
        ValueError: two images would have the same name.
    """
    found: list[ImageFile] = []
    rejected: list[Rejection] = []
    for place in places:
        if place.is_dir():
            images, bad = _in_folder(place, leave_out)
            found += images
            rejected += bad
        else:
            try:
                check_name(place.name)
                found.append(ImageFile(place.name, place))
            except BadImage as bad:
                rejected.append(Rejection.of(place.name, bad))
    names: dict[str, Path] = {}
    for item in found:
        other = names.setdefault(item.name, item.file)
        if other is not item.file:
            raise ValueError(
                f"expected images of different names, got {other} and {item.file}: give a folder that holds both"
            )
    return found, rejected


class NamedImages(Source):
    """The images of a command line as a source of data sets.

    Args:
        places: image files and folders, as for `find_images`.

    Raises:
        ValueError: two images would have the same name.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        super().__init__()
        found, self._rejected = find_images(places)
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
            BadImage: the file cannot be read.
        """
        return read_image_file(self._files[path])

    def class_of(self, path: str) -> str:
        """Returns the first folder of a name, relative to the folder that was searched."""
        return first_folder(path)


def read_images(found: Sequence[ImageFile]) -> Iterator[tuple[ImageFile, Image.Image | BadImage]]:
    """Yields each image, upright and RGB, or the reason for its rejection; in order, with threads reading ahead."""
    with ThreadPoolExecutor(THREADS, thread_name_prefix="read") as pool:
        waiting: deque[tuple[ImageFile, Future[Image.Image | BadImage]]] = deque()
        for item in found:
            waiting.append((item, pool.submit(_read, item.file)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def output_names(names: Sequence[str], longest: int = LONGEST_NAME) -> list[str]:
    """Returns the PNG file of each name: `a/b.jpg` -> `a/b.png`, or `a/b.jpg.png` if two images would be `a/b.png`.

    A file name that would be longer than `longest` bytes is cut, and ends in `-` and 8 digits of its SHA-256.
    """
    outputs = {name: _cut(str(Path(name).with_suffix(".png")), longest) for name in names}
    while True:  # a longer name may in turn be that of another image: `a.jpg`, `a.png` and `a.jpg.webp`
        users: dict[str, list[str]] = {}
        for name, output in outputs.items():
            users.setdefault(output, []).append(name)
        longer = {name: _cut(f"{name}.png", longest) for shared in users.values() if len(shared) > 1 for name in shared}
        if all(outputs[name] == output for name, output in longer.items()):
            return [outputs[name] for name in names]
        outputs |= longer


def _cut(path: str, longest: int) -> str:
    folder, slash, name = path.rpartition("/")
    if len(os.fsencode(name)) <= longest:
        return path
    end = f"-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}.png"
    # ignored: the first bytes of a character whose last ones are cut off
    start = os.fsencode(name)[: longest - len(end)].decode("utf-8", "ignore")
    return f"{folder}{slash}{start}{end}"


def _read(file: Path) -> Image.Image | BadImage:
    try:
        return decode_image(read_image_file(file))
    except BadImage as bad:
        return bad


def _in_folder(folder: Path, leave_out: Path | None) -> tuple[list[ImageFile], list[Rejection]]:
    contents = search_folder(folder)
    # The user named this folder, so every file without a result is reported, text files too.
    rejected = contents.rejected + [Rejection.of(path, _no_image(path)) for path in contents.others]
    here, out = folder.resolve(), leave_out.resolve() if leave_out else None
    inside = f"{out.relative_to(here).as_posix()}/" if out and out != here and out.is_relative_to(here) else None
    if inside:
        contents.images = [path for path in contents.images if not path.startswith(inside)]
        rejected = [bad for bad in rejected if not bad.path.startswith(inside)]
    return [ImageFile(path, folder / path) for path in contents.images], rejected


def _no_image(path: str) -> BadImage:
    suffix = Path(path).suffix or "no suffix"
    return BadImage(Reason.NOT_AN_IMAGE, f"its name ends in {suffix!r}, which is not an image's")
