"""From parameters to data sets: what all stages share."""

from pathlib import Path
from typing import TYPE_CHECKING

from ssdd.parameters import DataParameters

if TYPE_CHECKING:
    import pandas

    from ssdd.data import ImageDataset, Source


def open_images(data: DataParameters) -> "Source":
    """Returns the source that the parameters name.

    Raises:
        ValueError: there is nothing usable there.
    """
    from ssdd.data import open_source

    place = data.hub or (str(Path(data.root).expanduser()) if data.root else None)
    return open_source(data.kind, place, **(data.sample if data.kind == "sample" else data.options))


def training_images(
    index: "pandas.DataFrame",
    data: DataParameters,
    im_size: int,
    aug_scale: float,
    seed: int,
    limit: int | None = None,
) -> "ImageDataset":
    """The training split, augmented as published: random size, random crop, flip."""
    from ssdd.data import TRAIN, ImageDataset, TrainTransform

    return ImageDataset(
        index,
        open_images(data),
        TrainTransform(im_size=im_size, aug_scale=aug_scale, seed=seed),
        split=TRAIN,
        limit=limit,
    )


def held_out_images(
    index: "pandas.DataFrame", data: DataParameters, im_size: int, limit: int | None = None
) -> "ImageDataset":
    """The validation split, resized and cropped in the middle; at most `limit` images."""
    from ssdd.data import VALIDATION, EvalTransform, ImageDataset

    return ImageDataset(index, open_images(data), EvalTransform(im_size=im_size), split=VALIDATION, limit=limit)
