"""Pictures to PNG files, one after another."""

import errno
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ssdd.data.decoding import BadImage, Reason
from ssdd.data.source import Rejection
from ssdd.files import atomic_write
from ssdd.imaging.picture_files import THREADS

# what a file system says of a name: too long, of characters that it lacks, or taken by a folder or a file
_REFUSED = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)


class PictureWriter:
    """Writes pictures as PNG files, one after another: an interruption leaves at most one temporary file.

    A picture whose name the file system refuses is listed, and the others are written: one odd name must not cost them.

    Args:
        out: output folder, made when missing.
        outputs: name of each picture -> its file, relative to `out`.
        taken: a name in `out` that something else will have.

    Attributes:
        written: the files that are written.
        rejected: the names without a file.
    """

    def __init__(self, out: Path, outputs: dict[str, str], taken: str = "") -> None:
        self.written: list[str] = []
        self.rejected: list[Rejection] = []
        self._out, self._outputs, self._taken = out, outputs, taken
        out.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "PictureWriter":
        self._pool = ThreadPoolExecutor(THREADS)
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def write(self, names: Sequence[str], pictures: Sequence[np.ndarray]) -> None:
        """Compresses pictures (H, W, 3), uint8, in threads, and writes them.

        Raises:
            OSError: the disk is full or not writable.
        """
        for name, data in zip(names, self._pool.map(_png, pictures), strict=True):
            file = self._out / self._outputs[name]
            try:
                if file.parts[len(self._out.parts)] == self._taken:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
                with atomic_write(file) as temporary:
                    temporary.write_bytes(data)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                bad = BadImage(Reason.REFUSED_NAME, f"{error.strerror}: the result would be {self._outputs[name]}")
                self.rejected.append(Rejection.of(name, bad))
            else:
                self.written.append(self._outputs[name])


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()
