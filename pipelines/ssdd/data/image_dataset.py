"""The map-style data set: rows of an index, opened and transformed one by one."""

import hashlib
from typing import TypedDict

import pandas as pd
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from ssdd.data.image_index import select
from ssdd.data.source import Source
from ssdd.data.transforms import Transform

Key = tuple[int, int]
"""(epoch, index): which image, and which of its augmentations."""


class Example(TypedDict):
    """One item; a loader's batch has the same keys: (B, 3, S, S), an int64 tensor (B,) and a list of B paths.

    Attributes:
        image: float32 (3, S, S) in [-1, 1].
        index: row of the data set.
        path: name of the image in its source.
    """

    image: torch.Tensor
    index: int
    path: str


class ImageDataset(Dataset[Example]):
    """Images of an index; nothing but the index is held in memory.

    Args:
        index: the table of `prepare`.
        source: the source that the index was made of.
        transform: see `transforms`.
        split: `train`, `validation`, or None for all rows.
        limit: at most this many images, a fixed random choice.

    Attributes:
        content: SHA-256 of which images these are, by what is stored of them; not of their names or order.

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
        # Arrow's flat buffers: a list of Python strings would be copied page by page into every forked worker
        self._paths = pa.array(rows["path"].tolist(), pa.string())
        self.content = hashlib.sha256("".join(sorted(rows["sha256"])).encode()).hexdigest()
        self._sizes = rows[["width", "height"]].to_numpy()
        source.preload()

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
            ValueError: the image is gone, damaged, or of another size than the index says; the message names
                it.
            IndexError: there is no such row.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < len(self):
            raise IndexError(f"expected an index in [0, {len(self)}), got {index}")
        path = self.path(index)
        width, height = (int(side) for side in self._sizes[index])
        try:
            picture = self.source.open(path)
            if picture.size != (width, height):
                raise ValueError(f"it has {picture.width} x {picture.height} pixels, the index says {width} x {height}")
            image = self.transform(picture, epoch, index)
        except Exception as error:
            raise ValueError(
                f"cannot use image {path!r} of {self.source!r}: {error}. It was sound in `prepare`: "
                "restore it, or prepare the images again"
            ) from error
        return Example(image=image, index=index, path=path)
