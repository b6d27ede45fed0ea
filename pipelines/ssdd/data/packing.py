"""A packed copy of an index's images in tar shards: training images resized once, held-out images as they are.

Held-out images keep their bytes, so that figures are those of the originals. Equal images make equal shards: a header
has no time and no owner.
"""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from PIL import Image

from ssdd.data.decoding import FORMATS
from ssdd.data.source import TRAIN, VALIDATION, Source
from ssdd.data.transforms import TrainTransform, resize_short_side
from ssdd.files import atomic_write
from ssdd.pack_parameters import PackParameters

JPEG_QUALITY = 90


def pack(
    index: pd.DataFrame,
    source: Source,
    parameters: PackParameters,
    folder: Path,
    rank: int = 0,
    ranks: int = 1,
    advance: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes the shards `train-00000.tar`, ... and `validation-00000.tar`, ...; finished ones are kept.

    Args:
        index: the table of `index_images`.
        source: the source that was indexed.
        parameters: size, format, images of a shard.
        folder: of the shards; those in it have to be of the same index, source and parameters.
        rank, ranks: the shards are dealt out in turn.
        advance: called with the number of images of each finished shard.

    Raises:
        BadImage: an image cannot be read any more.
        OSError: the disk is full; finished shards are kept.
    """
    number = 0
    for split in (TRAIN, VALIDATION):
        paths = index.loc[index["split"] == split, "path"]
        for start in range(0, len(paths), parameters.shard_images):
            part = paths.iloc[start : start + parameters.shard_images].tolist()
            shard = folder / f"{split}-{start // parameters.shard_images:05d}.tar"
            if number % ranks == rank and not shard.exists():
                with atomic_write(shard) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
                    for row, path in enumerate(part, start):
                        _add(tar, row, path, source, parameters if split == TRAIN else None)
            if number % ranks == rank:
                advance(len(part))
            number += 1


def _add(tar: tarfile.TarFile, row: int, path: str, source: Source, parameters: PackParameters | None) -> None:
    data, suffix = _stored(source, path, parameters)
    folder = source.class_of(path).replace("/", "_")
    item = tarfile.TarInfo(f"{folder}/{row:09d}{suffix}" if folder else f"{row:09d}{suffix}")
    item.size = len(data)
    tar.addfile(item, io.BytesIO(data))


def _stored(source: Source, path: str, parameters: PackParameters | None) -> tuple[bytes, str]:
    """Returns the bytes of one image, and the suffix of their format."""
    if parameters is None:
        data = source.read(path)
        if suffix := _suffix(data):
            return data, suffix
        parameters = PackParameters(side=min(source.open(path).size))  # stored as no file, as the embedded sample's
    picture = source.open(path)
    if min(picture.size) > parameters.side:  # an enlarged one would only be larger
        picture = resize_short_side(picture, parameters.side, TrainTransform.resize_filter)
    buffer = io.BytesIO()
    if parameters.stored_as == "raw":
        picture.save(buffer, "PPM")
        return buffer.getvalue(), ".ppm"
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue(), ".jpg"


def _suffix(data: bytes) -> str:
    """Returns the suffix of an image's format; "" for bytes of none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return ".jp2" if image.format == "JPEG2000" else f".{str(image.format).lower()}"
    except Exception:  # Pillow's plugins raise almost any type
        return ""
