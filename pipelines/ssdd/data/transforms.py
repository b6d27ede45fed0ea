"""Transforms of pictures of any size to square tensors for a network.

S is the image size in pixels. Training augments with numbers drawn from (seed, epoch, index) alone; evaluation is
fixed. The filter and the crop are attributes, so that a metric's protocol can name them. Source: "Losses and recipe"
of the published description, with Lanczos and a random crop in training, bilinear and a centre crop in evaluation.
"""

import functools
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from PIL import Image

from ssdd.data.decoding import SIZE
from ssdd.data.recolour import recolour
from ssdd.parameters import Decoding, RecolourConfig

_FILTERS = {"lanczos": Image.Resampling.LANCZOS, "bilinear": Image.Resampling.BILINEAR}

NO_RECOLOURING = RecolourConfig()


class Transform(Protocol):
    """Picture -> tensor, a pure function of its arguments."""

    @property
    def im_size(self) -> int:
        """S, pixels."""
        ...

    def least_side(self, epoch: int, index: int) -> int | None:
        """Returns how many pixels of the short side it needs; None if the picture has to be whole."""
        ...

    def __call__(self, image: Image.Image, epoch: int, index: int) -> torch.Tensor:
        """Returns a float32 tensor (3, S, S) in [-1, 1]."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainTransform:
    """Resizes the short side, crops at a random place, and mirrors half of the images left to right.

    Args:
        im_size: S, pixels.
        aug_scale: the short side is resized to a random whole number in [S, aug_scale * S]; 1 resizes to S.
        flip: whether half of the images are mirrored.
        recolour: share and strength of changes of colour; off by default.
        decoding: `exact` decodes and resizes the whole picture. `fast` decodes a JPEG at the smallest of its sizes
            that suffices, and resizes the crop alone, whose borders are whole pixels: it is the same crop but for
            half a pixel, with slightly other pixels.
        seed: seed of all random choices.

    Raises:
        ValueError: an argument is out of its range.
    """

    resize_filter: ClassVar[str] = "lanczos"
    crop: ClassVar[str] = "random"

    im_size: int
    aug_scale: float = 1.0
    flip: bool = True
    recolour: RecolourConfig = NO_RECOLOURING
    decoding: Decoding = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.im_size < 1 or not 1 <= self.aug_scale <= 8 or self.seed < 0:
            raise ValueError(
                "expected im_size of at least 1, aug_scale in [1, 8] and seed of at least 0, got "
                f"{self.im_size}, {self.aug_scale}, {self.seed}"
            )

    def __call__(self, image: Image.Image, epoch: int, index: int) -> torch.Tensor:
        """Returns the augmented image of this epoch, float32 (3, S, S) in [-1, 1]."""
        rng = self._generator(epoch, index)
        u_size, u_top, u_left, u_flip = rng.random(4)
        short = self._short_side(u_size)
        stored = image.info.get(SIZE, image.size)
        width, height = (short * side // min(stored) for side in stored)
        top, left = _pick(u_top, height - self.im_size), _pick(u_left, width - self.im_size)
        box = (left, top, left + self.im_size, top + self.im_size)
        if self.decoding == "fast":
            part = [x * side / whole for x, side, whole in zip(box, image.size * 2, (width, height) * 2, strict=True)]
            pixels = _resize_part(image, part, self.im_size, self.resize_filter)
        else:
            pixels = _to_bytes(resize_short_side(image, short, self.resize_filter).crop(box))
        if self.flip and u_flip < 0.5:
            pixels = pixels.flip(2)
        if self.recolour.probability > 0:  # drawn last: without it, the other draws are the same
            cropped = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            pixels = _to_bytes(recolour(cropped, rng.random(4).tolist(), **self.recolour.model_dump()))
        return _to_range(pixels)

    def least_side(self, epoch: int, index: int) -> int | None:
        """Returns the short side to which the picture will be resized, if it need not be decoded whole."""
        return self._short_side(self._generator(epoch, index).random()) if self.decoding == "fast" else None

    def _generator(self, epoch: int, index: int) -> np.random.Generator:
        # One for each image and epoch: a resumed run, or one with other workers, draws the same numbers.
        return np.random.Generator(np.random.PCG64([1, self.seed, epoch, index]))

    def _short_side(self, u: float) -> int:
        return self.im_size + _pick(u, int(self.aug_scale * self.im_size) - self.im_size)


@dataclass(frozen=True, kw_only=True)
class EvalTransform:
    """Resizes the short side and takes the middle.

    Args:
        im_size: S, pixels.

    Raises:
        ValueError: it is below 1.
    """

    resize_filter: ClassVar[str] = "bilinear"
    crop: ClassVar[str] = "centre"

    im_size: int

    def __post_init__(self) -> None:
        if self.im_size < 1:
            raise ValueError(f"expected im_size of at least 1, got {self.im_size}")

    def least_side(self, epoch: int = 0, index: int = 0) -> int | None:
        """Returns None: figures are those of whole pictures."""
        return None

    def __call__(self, image: Image.Image, epoch: int = 0, index: int = 0) -> torch.Tensor:
        """Returns the image, float32 (3, S, S) in [-1, 1]; epoch and index have no effect."""
        resized = resize_short_side(image, self.im_size, self.resize_filter)
        # rounds half to even, as torchvision's CenterCrop does: published numbers use its pixels
        top, left = round((resized.height - self.im_size) / 2), round((resized.width - self.im_size) / 2)
        return to_tensor(resized.crop((left, top, left + self.im_size, top + self.im_size)))


def resize_short_side(image: Image.Image, size: int, resize_filter: str) -> Image.Image:
    """Shrinks or enlarges a picture so that its short side has `size` pixels.

    The long side is rounded down. Both filters widen with the shrinking factor (antialiased).

    Args:
        image: RGB.
        size: length of the short side, pixels.
        resize_filter: `lanczos` or `bilinear`.
    """
    short = min(image.size)
    if short == size:
        return image
    width, height = (size * side // short for side in image.size)
    return image.resize((width, height), _FILTERS[resize_filter])


def _resize_part(image: Image.Image, box: list[float], size: int, resize_filter: str) -> torch.Tensor:
    """Resizes a part of a picture to a square (3, S, S) of bytes; its borders are rounded to whole pixels.

    PyTorch takes a fifth of Pillow's time.
    """
    left, top, right, bottom = (round(x) for x in box)
    part = image.crop((left, top, right, bottom))
    if part.size == (size, size) or not _torch_knows(resize_filter):
        return _to_bytes(part if part.size == (size, size) else part.resize((size, size), _FILTERS[resize_filter]))
    # (1, 3, h, w), channels last
    return torch.nn.functional.interpolate(
        _to_bytes(part)[None], size=(size, size), mode=resize_filter, antialias=True
    )[0]


@functools.cache
def _torch_knows(resize_filter: str) -> bool:
    """Whether this release of PyTorch has a filter."""
    try:
        pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
        torch.nn.functional.interpolate(pixels, size=(2, 2), mode=resize_filter, antialias=True)
    except (NotImplementedError, ValueError):
        return False
    return True


def to_tensor(image: Image.Image) -> torch.Tensor:
    """Converts a picture to float32 (3, H, W), with levels 0..255 as -1..1."""
    return _to_range(_to_bytes(image))


def _to_bytes(image: Image.Image) -> torch.Tensor:
    """Returns a picture as uint8 (3, H, W)."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def _to_range(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1.0)


def _pick(u: float, largest: int) -> int:
    """Returns a whole number in [0, largest], each equally likely for u uniform in [0, 1)."""
    return int(u * (largest + 1))
