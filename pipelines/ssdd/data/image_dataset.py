"""The map-style data set: it opens and transforms the rows of an index one by one."""

import hashlib
from typing import TypedDict

import pandas as pd
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from ssdd.data.decoding import SIZE
from ssdd.data.image_index import select
from ssdd.data.source import Source
from ssdd.data.transforms import Transform

Key = tuple[int, int]
"""(epoch, index): the index selects an image, the epoch one of its augmentations."""


class Example(TypedDict):
    """One item. A loader's batch has the same keys: (B, 3, S, S), an int64 tensor (B,) and a list of B paths.

    Attributes:
        image: float32 (3, S, S) in [-1, 1].
        index: row of the data set.
        path: name of the image in its source.
    """

    image: torch.Tensor
    index: int
    path: str


class ImageDataset(Dataset[Example]):
    """Images of an index; only names, sizes and one hash stay in memory.

    Args:
        index: the table of `index_images`.
        source: the source that was indexed.
        transform: turns a picture into a tensor, see `transforms`.
        split: `train`, `validation`, or None for all rows.
        limit: at most this many images, a fixed random choice.

    Attributes:
        content: SHA-256 of the images' stored bytes; names and order do not count.

    Raises:
        ValueError: the index has no such row.
    """

    def __init__(
        self,
        index: pd.DataFrame,
        source: Source,
        transform: Transform,
        *,
        split: str | None = None,
        limit: int | None = None,
    ) -> None:
        rows = select(index, split, limit)
        self.source = source
        self.transform = transform
        # Arrow's flat buffers, since forked workers would copy a list of Python strings page by page: reading a string
        # changes its reference count, and so its memory page
        self._paths = _flat(rows["path"])
        self.content = _content(rows["sha256"])
        self._sizes = rows[["width", "height"]].to_numpy()
        source.preload()  # before the loader forks, so that its workers share the memory

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        """Returns the name of one image in its source."""
        return str(self._paths[index].as_py())

    def __getitem__(self, key: Key | int) -> Example:
        """Returns one image, a pure function of the key.

        Args:
            key: (epoch, index), or an index alone for epoch 0.

        Raises:
            ValueError: the image is missing or damaged, or its size is not that of the index; the message names
                the image.
            IndexError: there is no such row.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"expected an index in [0, {len(self)}), got {index}")
        path = self.path(index)
        width, height = (int(side) for side in self._sizes[index])
        try:
            least_side = self.transform.least_side(epoch, index)
            picture = self.source.open(path) if least_side is None else self.source.open(path, least_side)
            # A replaced file would train silently on another image than the lineage states. Its size is checked
            # because that is free; hashing every file in every epoch would not be.
            size = picture.info.get(SIZE, picture.size)
            if size != (width, height):
                raise ValueError(f"it has {size[0]} x {size[1]} pixels, the index says {width} x {height}")
            image = self.transform(picture, epoch, index)
        except Exception as error:
            raise ValueError(
                f"cannot use image {path!r} of {self.source!r}: {error}. It was sound when it was indexed: "
                "restore it, or prepare the images again"
            ) from error
        return Example(image=image, index=index, path=path)


def _flat(texts: pd.Series) -> pa.Array:
    found = pa.array(texts, pa.large_string())
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def _content(hashes: pd.Series) -> str:
    digest, hashes = hashlib.sha256(), hashes.sort_values()
    for start in range(0, len(hashes), 65536):  # a million hashes as Python's strings would take 100 MB
        digest.update("".join(hashes.iloc[start : start + 65536]).encode())
    return digest.hexdigest()
