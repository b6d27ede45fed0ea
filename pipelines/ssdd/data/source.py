"""The interface of every source of images: names in a fixed order, and one picture per name."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from ssdd.data.decoding import MAX_PIXELS, NOTE, BadImage, Reason, decode_image
from ssdd.texts import steady, utf8

TRAIN = "train"
VALIDATION = "validation"
NOTES_SHOWN = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A name without a usable picture.

    Args:
        path: the name, in characters that UTF-8 can hold.
        reason: one of the fixed reasons.
        detail: the exact finding, for a person to read.
    """

    path: str
    reason: Reason
    detail: str

    @classmethod
    def of(cls, path: str, bad: BadImage) -> "Rejection":
        """Returns the rejection of a name; bytes of the name that are not UTF-8 are escaped.

        File names on Linux are bytes. Tables and terminals take text only, and one odd name must not stop a pass.
        """
        return cls(path=utf8(path), reason=bad.reason, detail=steady(utf8(bad.detail)))


def tell_notes(notes: Sequence[tuple[str, str]]) -> None:
    """Logs remarks on usable images: the first few by name, and how many more there are."""
    for name, note in notes[:NOTES_SHOWN]:
        _log.warning("%r: %s", name, note)
    if len(notes) > NOTES_SHOWN:
        _log.warning("and %d more images with such remarks", len(notes) - NOTES_SHOWN)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Names found in a source, before any of them is opened.

    Args:
        names: per split (`train`, `validation`), in an order that depends on the names alone.
        rejected: entries that cannot be opened at all.
    """

    names: dict[str, list[str]]
    rejected: list[Rejection] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """The facts of one picture that the index keeps.

    Args:
        width: pixels, upright.
        height: pixels, upright.
        size: number of stored bytes.
        sha256: hash of those bytes, 64 hexadecimal digits.
        note: a remark for the user, or "".
    """

    width: int
    height: int
    size: int
    sha256: str
    note: str = ""


class Source(ABC):
    """Images that can be opened one by one, in any order, in any process.

    A new source implements `listing` and `read`. Its instances must be picklable, since worker processes get a
    copy. This one is complete:

    ```python
    class Greys(Source):  # plain squares, one per grey level; the name of each is its level
        def listing(self) -> Listing:
            return Listing(names={TRAIN: [str(level) for level in range(256)]})

        def read(self, path: str) -> bytes:
            return b"P5 64 64 255 " + bytes([int(path)]) * 64**2
    ```

    Three files make it a value of the parameter `data.kind`: its own module, `KINDS` in `data/image_sets.py`, and the
    names that `DataParameters.kind` in `parameters.py` accepts. The other methods have defaults. `version` needs an
    override if a name's content can change, and `open` and `examine` if the images are not stored as encoded files.

    Args:
        max_pixels: larger pictures are refused as decompression bombs.
    """

    def __init__(self, *, max_pixels: int = MAX_PIXELS) -> None:
        if max_pixels < 1:
            raise ValueError(f"expected max_pixels of at least 1, got {max_pixels}")
        self.max_pixels = max_pixels

    @abstractmethod
    def listing(self) -> Listing:
        """Returns the names of all images without opening them."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Returns the stored bytes of one image, an encoded file.

        Raises:
            BadImage: the bytes cannot be read.
        """

    def open(self, path: str, least_side: int | None = None) -> Image.Image:
        """Returns one upright RGB picture.

        Args:
            path: its name.
            least_side: pixels that its short side has to keep, if a smaller picture is decoded faster; None for the
                whole picture.

        Raises:
            BadImage: the picture cannot be read or decoded.
        """
        return decode_image(self.read(path), self.max_pixels, least_side)

    def class_of(self, path: str) -> str:
        """Returns the name of an image's class; "" where it has none."""
        return ""

    def photograph_of(self, path: str) -> str:
        """Returns the name of the photograph that an image is a part of; most images are whole, and it is their own."""
        return path

    def open_photograph(self, name: str) -> Image.Image:
        """Returns a photograph by the name that `photograph_of` gave.

        Raises:
            BadImage: the picture cannot be read or decoded.
        """
        return self.open(name)

    def examine(self, path: str) -> ImageFacts:
        """Reads and decodes one image completely and returns its facts.

        Raises:
            BadImage: the picture cannot be read or decoded.
        """
        data = self.read(path)
        image = decode_image(data, self.max_pixels)
        return ImageFacts(
            width=image.width,
            height=image.height,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            note=image.info.get(NOTE, ""),
        )

    def version(self, path: str) -> str:
        """Returns a cheap sign of a change in one image's content; "" where a name always means the same content."""
        return ""

    def fingerprint(self) -> str:
        """Returns 64 hexadecimal digits that change when images come, go or are replaced.

        No image is opened: the digits are needed before every run, over millions of files.
        """
        digest = hashlib.sha256()
        for split, names in self.listing().names.items():
            for name in names:
                digest.update(f"{split}\0{name}\0{self.version(name)}\0".encode())
        return digest.hexdigest()

    def preload(self) -> None:  # noqa: B027  (most sources have nothing to load)
        """Loads data that all pictures share, before worker processes are forked."""
