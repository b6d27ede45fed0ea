"""Pixels of any mode, depth and transparency to 8-bit RGB on white, each value rounded once.

v in 0..M is a stored sample and M the largest one, a the alpha; a level of 0..255 is 255 v / M, rounded. Straight alpha
on white is (v a + M (M - a)) / M, premultiplied alpha v + M - a.
"""

# H W pixels, C samples of each

import io
import re
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile

_PLANAR, _PHOTOMETRIC, _BITS, _SAMPLE_FORMAT = 284, 262, 258, 339  # tags of TIFF
_SEPARATE, _WHITE_IS_ZERO, _UNSIGNED = 2, 0, 1
_WIDE = re.compile(r"(LA|RGB|RGBA|RGBa|RGBX|CMYK);16([BLN])")
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
_BLOCK = 2**20  # pixels converted at a time: their sums are eight bytes for each sample


class UnknownRange(ValueError):
    """Pixels whose range or layout the file does not state, or the decoder does not keep."""


@dataclass(frozen=True)
class Layout:
    """The storage of a picture's samples.

    Attributes:
        rawmode: Pillow's name of the layout, "" where its plugin decodes in one piece.
        maximum: the largest sample, M, of pictures with one sample or with more than 8 bits.
        shift: bits by which the decoder has shifted the samples to the left.
        inverted: whether 0 is white and the decoder leaves it so.
    """

    rawmode: str
    maximum: int
    shift: int
    inverted: bool

    @classmethod
    def of(cls, image: Image.Image, data: bytes) -> "Layout":
        """Reads the layout of an opened picture, before it is loaded.

        Raises:
            UnknownRange: the decoder would lose or mix up the samples.
        """
        tiles = getattr(image, "tile", None)  # a plugin that decodes in one piece may have none
        arguments = tiles[0].args if tiles else ""
        rawmode = str(arguments if isinstance(arguments, str) else (arguments or [""])[0])
        bits, shift, inverted = 16, 0, False
        if image.format == "TIFF":
            bits, inverted = _of_tiff(image)
            if image.tag_v2.get(_PLANAR) == _SEPARATE:  # type: ignore[attr-defined]
                rawmode = ""  # each plane has a layout of its own
        elif image.format == "JPEG2000":
            bits = _of_jpeg2000(image, data)
            shift = 16 - bits
        return cls(rawmode=rawmode, maximum=2**bits - 1, shift=shift, inverted=inverted)


def to_rgb(image: Image.Image, layout: Layout, data: bytes) -> tuple[Image.Image, int]:
    """Converts a loaded picture.

    Args:
        image: the picture, of any mode.
        layout: its storage.
        data: the whole file, to decode the rest of 16-bit colours.

    Returns:
        the RGB picture, and the largest sample of a 16-bit picture (0 for others).

    Raises:
        UnknownRange: the pixels are of a type without a range.
    """
    key = image.info.get("transparency") if image.format == "PNG" else None
    wide = _WIDE.fullmatch(layout.rawmode)
    if wide:
        samples = _sixteen_bits(image, data, wide[1], wide[2])
        if wide[1] == "CMYK":
            return Image.fromarray(_levels(samples, None, 65535), "CMYK").convert("RGB"), int(samples.max())
        return _on_white(samples, 65535, premultiplied=wide[1] == "RGBa", key=key), int(samples.max())
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"}):
        samples = np.asarray(image)[..., None] >> layout.shift
        samples = layout.maximum - samples if layout.inverted else samples
        most = int(samples.max()) if layout.maximum == 65535 else 0
        return _on_white(samples, layout.maximum, key=key), most
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted, 0
    if image.mode in {"F", "I"}:
        raise UnknownRange(f"mode {image.mode!r} ({image.format}); save it with 8 or 16 bits")
    if layout.rawmode.startswith(("RGBa", "La")):
        stored = layout.rawmode if image.mode == "La" else layout.rawmode.replace("a", "A")
        return _on_white(_decode_as(image, data, image.mode, stored), 255, premultiplied=True), 0
    if image.has_transparency_data:
        return _on_white(np.asarray(image.convert("RGBA")), 255), 0
    return image.convert("RGB"), 0


def _of_tiff(image: Any) -> tuple[int, bool]:
    """Returns the bits of a sample, and whether 0 is white and the decoder leaves it so."""
    tags = image.tag_v2
    bits = max(tags.get(_BITS, (1,)))
    if tags.get(_PLANAR) == _SEPARATE and (bits > 8 or image.mode in {"LA", "La", "PA"}) and image.mode[:1] not in "IF":
        raise UnknownRange("samples in separate planes; save it with the samples of a pixel side by side")
    if bits == 8 and any(kind != _UNSIGNED for kind in tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))):
        raise UnknownRange("signed samples; save it with unsigned ones")
    return bits, image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _of_jpeg2000(image: Image.Image, data: bytes) -> int:
    """Returns the bits of a sample, from the codestream's marker SIZ."""
    start = data.find(b"\xff\x4f\xff\x51")
    components = data[start + 42 :][: 3 * int.from_bytes(data[start + 40 : start + 42], "big") : 3]
    bits = max((1 + (depth & 0x7F) for depth in components), default=8)
    if bits > 8 and not image.mode.startswith("I"):
        # Pillow shifts such samples to 8 bits, and white comes out black.
        raise UnknownRange(f"JPEG 2000 colours of {bits} bits; save it with 8 bits, or as PNG or TIFF")
    return bits


def _decode_as(image: Image.Image, data: bytes, mode: str, rawmode: str) -> np.ndarray:
    """Decodes the file again, with the samples laid out as another mode."""
    with Image.open(io.BytesIO(data), formats=(image.format or "",)) as again:
        assert isinstance(again, ImageFile.ImageFile)
        again._mode = mode
        again.tile = [
            tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *(tile.args or ())[1:]))
            for tile in again.tile
        ]
        again.load()
        return np.asarray(again)


def _sixteen_bits(image: Image.Image, data: bytes, colours: str, order: str) -> np.ndarray:
    """Returns (H, W, C) uint16. Pillow keeps one byte of each sample of a colour; a second pass gets the other one."""
    if colours == "LA":  # it is only stored in PNG, as four bytes for each pixel, the high ones first
        pairs = _decode_as(image, data, "RGBA", "RGBA")
        high, low = pairs[..., ::2], pairs[..., 1::2]
    else:
        stored = colours.upper()  # premultiplied samples as they are
        high = _decode_as(image, data, image.mode, f"{stored};16{order}")
        low = _decode_as(image, data, image.mode, f"{stored};16{_OTHER_BYTE[order]}")
    samples = high.astype(np.uint16)
    samples <<= 8
    samples |= low
    return samples


def _on_white(samples: np.ndarray, maximum: int, *, premultiplied: bool = False, key: Any = None) -> Image.Image:
    """Converts samples (H, W, C): gray, gray + alpha, RGB or RGBA; pixels of the colour `key` are transparent."""
    alpha = samples[..., -1:] if samples.shape[2] in (2, 4) else None
    colours = samples if alpha is None else samples[..., :-1]
    if key is not None and alpha is None:
        alpha = np.where((samples == np.asarray(key)).all(axis=2, keepdims=True), 0, maximum)
    levels = _levels(colours, alpha, maximum, premultiplied)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).convert("RGB")


def _levels(colours: np.ndarray, alpha: np.ndarray | None, maximum: int, premultiplied: bool = False) -> np.ndarray:
    """Returns (H, W, C) uint8."""
    levels = np.empty(colours.shape, np.uint8)
    rows = max(1, _BLOCK // colours.shape[1])
    for start in range(0, len(colours), rows):
        part = slice(start, start + rows)
        v, most = colours[part].astype(np.int64), maximum
        if alpha is not None:
            a = alpha[part].astype(np.int64)
            if premultiplied:
                v = np.minimum(v + maximum - a, maximum)
            else:
                v, most = v * a + maximum * (maximum - a), maximum**2
        levels[part] = (510 * v + most) // (2 * most)
    return levels
