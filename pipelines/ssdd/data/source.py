"""What every source of images offers: a list of names in a fixed order, and one picture per name."""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from PIL import Image

from ssdd.data.decoding import MAX_PIXELS, Reason, decode_image

TRAIN = "train"
VALIDATION = "validation"


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A name that gives no picture."""

    path: str
    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Names found in a source, before any of them is opened.

    Args:
        names: per split (`train`, `validation`), in an order that depends on the names alone.
        rejected: what was met and cannot be opened at all.
    """

    names: dict[str, list[str]]
    rejected: list[Rejection] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the index keeps of one picture.

    Args:
        width: pixels, upright.
        height: pixels, upright.
        size: bytes as stored.
        sha256: of those bytes, 64 hexadecimal digits.
    """

    width: int
    height: int
    size: int
    sha256: str


class Source(ABC):
    """Images that can be opened one by one, in any order, in any process.

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
        """Returns the stored bytes of one image.

        Raises:
            BadImage: they cannot be read.
        """

    def open(self, path: str) -> Image.Image:
        """Returns one upright RGB picture.

        Raises:
            BadImage: it cannot be read or decoded.
        """
        return decode_image(self.read(path), self.max_pixels)

    def examine(self, path: str) -> ImageFacts:
        """Reads and decodes one image completely and returns its facts.

        Raises:
            BadImage: it cannot be read or decoded.
        """
        data = self.read(path)
        image = decode_image(data, self.max_pixels)
        return ImageFacts(
            width=image.width, height=image.height, size=len(data), sha256=hashlib.sha256(data).hexdigest()
        )

    def version(self, path: str) -> str:
        """Returns a cheap sign of one image's stored content, "" where the name alone says it."""
        return ""

    def fingerprint(self) -> str:
        """Returns 64 hexadecimal digits that change when images come, go or are replaced; none is opened."""
        digest = hashlib.sha256()
        for split, names in self.listing().names.items():
            for name in names:
                digest.update(f"{split}\0{name}\0{self.version(name)}\0".encode())
        return digest.hexdigest()

    def preload(self) -> None:  # noqa: B027  (most sources have nothing to hold)
        """Loads what all pictures share, so that worker processes forked later need not."""
