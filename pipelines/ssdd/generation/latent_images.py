"""The images that latents are made of: both splits, with the row and the class of each image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ssdd.data.image_dataset import ImageDataset
from ssdd.data.image_index import rows_of
from ssdd.data.image_sets import evaluation_images
from ssdd.data.source import TRAIN, VALIDATION, Source

NO_CLASS = -1


@dataclass(frozen=True, kw_only=True)
class LatentImages:
    """The images of one split, with what a shard says of them.

    Args:
        split: `train` or `validation`.
        dataset: with an `EvalTransform`.
        rows: of each image in the index, (n,) integers.
        classes: names of all classes, in the order of their numbers.
    """

    split: str
    dataset: ImageDataset
    rows: np.ndarray
    classes: tuple[str, ...]

    def labels(self, numbers: range) -> list[int]:
        """Returns the numbers of the classes of some images, -1 where one has none."""
        known = {name: label for label, name in enumerate(self.classes)}
        source = self.dataset.source
        return [known.get(source.class_of(self.dataset.path(number)), NO_CLASS) for number in numbers]


def images_of(index: pd.DataFrame, source: Source, im_size: int, limit: int | None = None) -> tuple[LatentImages, ...]:
    """Returns the images of each split that has any, brought to one size as evaluation does.

    Args:
        index: the table of `index_images`.
        source: the source that was indexed.
        im_size: S, pixels.
        limit: images per split, a fixed random choice.
    """
    # Of the whole index: a class keeps its number, whatever the limit.
    classes = tuple(sorted({source.class_of(path) for path in index["path"]} - {""}))
    return tuple(
        LatentImages(
            split=split,
            dataset=evaluation_images(index, source, im_size, split, limit),
            rows=rows_of(index, split, limit),
            classes=classes,
        )
        for split in (TRAIN, VALIDATION)
        if (index["split"] == split).any()
    )
