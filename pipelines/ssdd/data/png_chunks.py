"""The chunks of a PNG file that decide about its picture; texts, profiles and private chunks are left out.

Pillow refuses a sound picture because of them: a text of more than 1 MiB, a wrong checksum in a comment.
"""

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"tRNS",)  # the ancillary chunk without which the pixels would be others
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
# Keywords under which programs keep the orientation, apart from the chunk eXIf.
_ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type exif", b"Raw profile type APP1")
_LONGEST_TEXT = 2**19  # bytes, a half of what Pillow reads
_GRAY, _RGB = 0, 2


def picture_chunks(data: bytes) -> tuple[bytes, str]:
    """Returns a PNG file without the chunks that its picture does not need, and a remark ("" for none).

    Key colours are written so that Pillow reads them right: of their 16 bits only those of the depth count, and Pillow
    scales pixels of 2 and 4 bits, but not their key.

    Args:
        data: the whole file; where it is cut, the rest is returned as it is.
    """
    if not data.startswith(SIGNATURE) or data[12:16] != b"IHDR" or len(data) < 33:
        return data, ""
    depth, colour_type = data[24], data[25]
    kept, wrong = [SIGNATURE], []
    end = len(SIGNATURE)
    for kind, body, whole in _chunks(data):
        end += len(whole)
        if kind == b"tRNS" and colour_type in (_GRAY, _RGB) and _is_sound(kind, body, whole):
            whole = _chunk(kind, _key(body, depth, colour_type))
        elif kind[:1].islower() and kind not in _PIXELS:
            sound = _is_sound(kind, body, whole)
            if not sound:
                wrong.append(kind.decode("latin-1"))
            if not sound or not (kind == b"eXIf" or _holds_orientation(kind, body)):
                continue
        kept.append(whole)
        if kind == b"IEND":
            end = len(data)  # what follows is no part of the picture
            break
    kept.append(data[end:])
    remark = f"wrong checksum of {', '.join(sorted(set(wrong)))}, which holds no pixels" if wrong else ""
    return b"".join(kept), remark


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yields the kind, the body and all bytes of each whole chunk."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        end = place + 12 + length
        if end > len(data):
            return
        yield data[place + 4 : place + 8], data[place + 8 : end - 4], data[place:end]
        place = end


def _is_sound(kind: bytes, body: bytes, whole: bytes) -> bool:
    return zlib.crc32(kind + body) == int.from_bytes(whole[-4:], "big")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _holds_orientation(kind: bytes, body: bytes) -> bool:
    """Whether a text is one that may state the orientation, and short enough to be read."""
    keyword, _, text = body.partition(b"\0")
    if kind not in _TEXTS or keyword not in _ORIENTATION or len(body) > _LONGEST_TEXT:
        return False
    compressed = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1] if text[:1] == b"\1" else b""
    if kind == b"tEXt" or not compressed:
        return True
    try:
        reader = zlib.decompressobj()
        return len(reader.decompress(compressed, _LONGEST_TEXT)) < _LONGEST_TEXT
    except zlib.error:
        return False


def _key(body: bytes, depth: int, colour_type: int) -> bytes:
    count, most = (1 if colour_type == _GRAY else 3), 2**depth - 1
    if len(body) < 2 * count or depth not in (1, 2, 4, 8, 16):
        return body  # damaged: Pillow says so
    scale = 255 // most if depth in (2, 4) else 1
    return struct.pack(f">{count}H", *((value & most) * scale for value in struct.unpack_from(f">{count}H", body)))
