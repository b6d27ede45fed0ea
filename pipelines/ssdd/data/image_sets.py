"""Sources of images by their names in the parameters, and the data sets of training and evaluation."""

import os
from pathlib import Path
from typing import Any

import pandas as pd

from ssdd.data.embedded_sample import EmbeddedSample
from ssdd.data.huggingface import HuggingFaceImages
from ssdd.data.image_dataset import ImageDataset
from ssdd.data.image_folders import ImageFolder, ImageNetFolder
from ssdd.data.remote_files import is_remote
from ssdd.data.remote_images import RemoteFolder, RemoteTar
from ssdd.data.source import TRAIN, VALIDATION, Source
from ssdd.data.tar_images import TarImages
from ssdd.data.transforms import EvalTransform, TrainTransform
from ssdd.parameters import DataParameters, StageParameters
from ssdd.suggestions import nearest

# `DataParameters.kind` accepts the same names; a test compares the two. The parameters cannot read this table:
# they are checked before any stage starts, and torch would load with it.
KINDS: dict[str, type[Source]] = {
    "sample": EmbeddedSample,
    "folder": ImageFolder,
    "imagenet": ImageNetFolder,
    "huggingface": HuggingFaceImages,
    "tar": TarImages,
}

REMOTE: dict[str, type[RemoteFolder] | type[RemoteTar]] = {"folder": RemoteFolder, "tar": RemoteTar}
"""Kinds of images at an address, such as `s3://bucket/folder`."""


def open_source(kind: str, path: str | None = None, **options: Any) -> Source:
    """Opens a source of images.

    Args:
        kind: a key of `KINDS`: `sample` (embedded, takes no path), `folder`, `imagenet`, `huggingface` or `tar`.
        path: the folder; for `huggingface`, a folder or an id on the hub; for `folder` and `tar`, also an address.
        options: further arguments of the source's class.

    Raises:
        ValueError: the kind is unknown, a path is missing or superfluous, an option does not fit, or there is nothing
            usable at the path.
    """
    if path is not None and is_remote(str(path)) and kind in KINDS:
        if kind not in REMOTE:
            raise ValueError(f"expected a kind among {', '.join(REMOTE)} for the images at {path}, got {kind!r}")
        return REMOTE[kind](path, **options)
    if kind not in KINDS:
        raise ValueError(
            f"expected a kind of source among {', '.join(KINDS)}, got {kind!r}{nearest(kind, list(KINDS))}"
        )
    if (path is None) != (kind == "sample"):
        problem = f"got {path!r}: leave the path out" if path is not None else "got none: give its path"
        raise ValueError(f"expected {'no' if kind == 'sample' else 'a'} path for the source {kind!r}, {problem}")
    arguments = () if path is None else (path,)
    try:
        return KINDS[kind](*arguments, **options)
    except TypeError as error:
        raise ValueError(f"the source {kind!r} does not take these options, {sorted(options)}: {error}") from error


def open_images(data: DataParameters) -> Source:
    """Opens the source that the parameters name.

    Raises:
        ValueError: there is nothing usable at its place.
    """
    root = data.root if data.root is None or is_remote(data.root) else str(Path(os.path.expanduser(data.root)))
    place = data.hub or root
    return open_source(data.kind, place, **(data.sample if data.kind == "sample" else data.options))


def training_images(
    index: pd.DataFrame, data: DataParameters, stage: StageParameters, limit: int | None = None
) -> ImageDataset:
    """Returns the training split, augmented: random size, crop and flip as published, colours if the stage says so."""
    transform = TrainTransform(
        im_size=stage.im_size,
        aug_scale=stage.aug_scale,
        recolour=stage.augment.recolour,
        decoding=data.decoding,
        seed=stage.seed,
    )
    return ImageDataset(index, open_images(data), transform, split=TRAIN, limit=limit)


def evaluation_images(
    index: pd.DataFrame, source: Source, im_size: int, split: str, limit: int | None = None
) -> ImageDataset:
    """Returns a split, resized and cropped in the middle; at most `limit` images."""
    return ImageDataset(index, source, EvalTransform(im_size=im_size), split=split, limit=limit)


def held_out_images(index: pd.DataFrame, data: DataParameters, im_size: int, limit: int | None = None) -> ImageDataset:
    """Returns the validation split, resized and cropped in the middle; at most `limit` images."""
    return evaluation_images(index, open_images(data), im_size, VALIDATION, limit)
