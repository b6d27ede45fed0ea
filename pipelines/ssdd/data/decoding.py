"""Decoding of one image file to 8-bit RGB, as a viewer would show it, or a reason for its rejection.

* EXIF (or XMP) orientation is applied; an image with a damaged EXIF block counts as upright.
* Palette, gray, gray + alpha, 1-bit, CMYK (also Adobe's inverted one), YCbCr and LAB images become RGB.
* 16-bit gray and colours are rounded to 8 bits (v / 257), once: transparency is composited before.
* Transparency (alpha channel, palette entry or key colour) is composited on WHITE.
* The first frame of an animation or of a multi-page file is used.
* Embedded colour profiles are not applied. Texts and profiles of a PNG are not read, whatever their size or checksum.

Nothing is guessed. Float, signed and 32-bit integer pixels are refused, since no file states their range, and so are
layouts that the decoder mixes up: 16-bit samples in separate planes, and JPEG 2000 colours of more than 8 bits. A file
that ends early is refused too, even if only bytes after the last pixel are missing.
"""

import errno
import io
import os
import stat
from enum import StrEnum
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError, __version__, features

from ssdd.data.colours import Layout, UnknownRange, to_rgb
from ssdd.data.png_chunks import picture_chunks
from ssdd.files import LFS_POINTER, LFS_REMEDY
from ssdd.texts import steady

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before decoding (Pillow's own limit; 358 MB in memory)."""

MAX_FILE_BYTES = 2**30
"""Larger files are refused before they are read: a sparse file of a terabyte costs nothing to make."""

NOTE = "note"
"""The key of the remark in a decoded picture's `info`."""

SIZE = "size"
"""The key of the stored picture's width and height, upright, in the `info` of one that was decoded smaller."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
"""The accepted formats. Pillow knows more, but some of them run other programs (EPS) or have no signature."""

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"\0\0\0\x0cjP")
_EXIF_ORIENTATION = 0x0112
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Reason(StrEnum):
    """The reasons for which a file is not in the index."""

    UNREADABLE = "unreadable"
    TRUNCATED = "truncated"
    NOT_AN_IMAGE = "not an image"
    TOO_SMALL = "too small"
    TOO_LONG = "too long and thin"
    BOMB = "decompression bomb"
    TOO_LARGE = "file too large"
    PIXEL_TYPE = "pixel type without a known range"
    PERMISSION = "permission denied"
    DIRECTORY = "is a directory"
    SPECIAL = "not a regular file"
    MISSING = "missing"
    LINK_LOOP = "symlink loop"
    SEEN = "link to a folder already searched"
    NAME = "name is not Unicode"
    REFUSED_NAME = "name is refused"


class BadImage(ValueError):
    """An image that cannot be used.

    Args:
        reason: one of the fixed reasons, so that rejections can be counted.
        detail: the exact finding, for a person to read.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def read_image_file(path: str | os.PathLike[str]) -> bytes:
    """Returns the content of a regular file; a pipe never blocks it, and a huge file is not read.

    Args:
        path: the file; symbolic links are followed.

    Raises:
        BadImage: it is missing, a folder, a device, a loop of links, not readable or larger than
            `MAX_FILE_BYTES`.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise BadImage(Reason.DIRECTORY, "a folder with the name of an image; what is inside is not used")
        if not stat.S_ISREG(status.st_mode):
            raise BadImage(Reason.SPECIAL, "a pipe, socket or device")
        if status.st_size > MAX_FILE_BYTES:
            raise BadImage(Reason.TOO_LARGE, f"{status.st_size} bytes, at most {MAX_FILE_BYTES} are read")
        return Path(path).read_bytes()
    except OSError as error:
        raise os_error_reason(error) from error


def os_error_reason(error: OSError) -> BadImage:
    """Translates an error of the file system to a rejection."""
    reasons = {
        errno.EACCES: Reason.PERMISSION,
        errno.EPERM: Reason.PERMISSION,
        errno.ENOENT: Reason.MISSING,
        errno.ELOOP: Reason.LINK_LOOP,
    }
    return BadImage(reasons.get(error.errno or 0, Reason.UNREADABLE), error.strerror or str(error))


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, least_side: int | None = None) -> Image.Image:
    """Decodes an image to an upright RGB picture, whose `info[NOTE]` is a remark for the user, or "".

    Args:
        data: the whole file.
        max_pixels: images with a larger width x height are refused before any pixel is decoded. Pillow itself
            refuses more than twice `MAX_PIXELS`.
        least_side: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as its short side has
            so many pixels; `info[SIZE]` is then the stored size. None decodes the whole.

    Raises:
        BadImage: the image cannot be decoded completely; the module's text says what is accepted.
    """
    if not data:
        raise BadImage(Reason.TRUNCATED, "the file is empty")
    # Some libraries set this to True for the whole process; then half a picture would pass for a whole one.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    data, remark = picture_chunks(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise BadImage(Reason.BOMB, f"{width} x {height} pixels, at most {max_pixels} are decoded")
            if image.format == "PNG":
                _verify_checksums(data)
            layout = Layout.of(image, data)
            if least_side is not None and image.format == "JPEG":
                image.draft(None, (width * least_side // min(width, height), height * least_side // min(width, height)))
            image.load()
            converted, most = to_rgb(image, layout, data)
            orientation = _orientation(image)
            upright = _upright(converted, orientation)
            upright.info = {NOTE: remark or _dark(most)}
            if image.size != (width, height):
                upright.info[SIZE] = (height, width) if orientation >= 5 else (width, height)
            return upright
    except BadImage:
        raise
    except UnknownRange as error:
        raise BadImage(Reason.PIXEL_TYPE, str(error)) from error
    except Exception as error:  # on hostile input, Pillow's plugins raise almost any type
        raise _reason_of(error, data) from error


def decoding_libraries() -> str:
    """Returns the names and versions of the decoders: the JPEG standard lets two of them differ by a grey level."""
    turbo = features.version("libjpeg_turbo")
    return f"Pillow {__version__}, " + (f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {features.version('jpg')}")


def _verify_checksums(data: bytes) -> None:
    """Raises if a PNG's chunks fail their checksums or lack the end mark; Pillow's `load` checks neither."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        image.verify()


def _dark(most: int) -> str:
    """Returns a remark on a 16-bit picture whose largest sample is `most`, if sensors of 10 to 14 bits end there."""
    if not 0 < most < 2**14:
        return ""
    return f"16-bit samples end at {most} of 65535, so it is dark: if it is data of fewer bits, scale it to 16 bits"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block can raise any type; the pixels are fine
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURN.get(orientation)
    return image if turn is None else image.transpose(turn)


def _reason_of(error: Exception, data: bytes) -> BadImage:
    detail = steady(f"{type(error).__name__}: {error}".splitlines()[0])
    if isinstance(error, Image.DecompressionBombError):
        return BadImage(Reason.BOMB, detail)
    if isinstance(error, EOFError) or "truncated" in detail.lower() or _shorter_than_it_says(data):
        return BadImage(Reason.TRUNCATED, detail)
    if data.startswith(LFS_POINTER):
        return BadImage(Reason.NOT_AN_IMAGE, f"it {LFS_REMEDY}")
    if isinstance(error, UnidentifiedImageError) and not data.startswith(_SIGNATURES):
        return BadImage(Reason.NOT_AN_IMAGE, f"no image signature in the first bytes, {data[:8]!r}")
    return BadImage(Reason.UNREADABLE, detail)


def _shorter_than_it_says(data: bytes) -> bool:
    """Returns whether a RIFF file (WebP) lacks bytes, which its decoder does not report."""
    return data[:4] == b"RIFF" and 8 + int.from_bytes(data[4:8], "little") > len(data)
