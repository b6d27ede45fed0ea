"""Images of Hugging Face `datasets`: a local folder of Parquet or Arrow (also `save_to_disk`), or a hub id."""

import json
import os
from typing import TYPE_CHECKING, Any

from ssdd.data.decoding import MAX_PIXELS, BadImage, Reason, read_image_file
from ssdd.data.source import TRAIN, VALIDATION, Listing, Source

if TYPE_CHECKING:
    from datasets import Dataset

VALIDATION_NAMES = ("validation", "valid", "val", "test")
"""The first of these names that a data set has among its splits becomes `validation`."""


class HuggingFaceImages(Source):
    """Rows of a map-style data set, memory-mapped.

    Names are `<split>/<row>`, with the data set's own split names. Images are decoded by `decode_image` as in every
    source: the library's decoder would neither turn an image upright nor explain a rejection.

    Args:
        location: a local folder, or an id on the hub (e.g. "owner/name").
        column: name of the column of images; needed only where several columns hold images.
        config: configuration ("subset") of a hub data set.
        max_pixels: larger pictures are refused as decompression bombs.

    Raises:
        ValueError: nothing can be loaded from there, or the column is ambiguous.
    """

    def __init__(
        self,
        location: str | os.PathLike[str],
        *,
        column: str | None = None,
        config: str | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        super().__init__(max_pixels=max_pixels)
        self.location = str(location)
        # An empty split is as good as none: another one may hold the images, or some may be held out.
        tables = {name: table for name, table in _load(self.location, config).items() if len(table)}
        validation = next((name for name in VALIDATION_NAMES if name in tables), None)
        chosen = {TRAIN: "train" if "train" in tables else None, VALIDATION: validation}
        self.splits = {split: name for split, name in chosen.items() if name is not None}
        if not self.splits:
            raise ValueError(
                f"expected a split 'train' or {', '.join(map(repr, VALIDATION_NAMES))} in {self.location!r}, "
                f"found {', '.join(map(repr, tables)) or 'no row'}"
            )
        self.tables = {name: _encoded_images(tables[name], column, self.location) for name in self.splits.values()}

    def __repr__(self) -> str:
        return f"HuggingFaceImages({self.location!r})"

    def listing(self) -> Listing:
        """Returns one name per row."""
        names = {
            split: [f"{name}/{row:08d}" for row in range(len(self.tables[name]))] for split, name in self.splits.items()
        }
        return Listing(names=names)

    def read(self, path: str) -> bytes:
        """Returns the stored bytes of one row's image.

        Raises:
            BadImage: the row holds no image, or names a file that cannot be read.
        """
        split, _, row = path.rpartition("/")
        table = self.tables.get(split)
        if table is None or not row.isdecimal() or int(row) >= len(table):
            raise BadImage(Reason.MISSING, f"no row {path!r} in {self.location!r}")
        value: Any = table[int(row)]["image"]
        if isinstance(value, bytes):
            return value
        if value is None or (value["bytes"] is None and value["path"] is None):
            raise BadImage(Reason.MISSING, "the row's image is null")
        return value["bytes"] if value["bytes"] is not None else read_image_file(value["path"])

    def version(self, path: str) -> str:
        """Returns the library's fingerprint of the table that holds the row."""
        return str(self.tables[path.rpartition("/")[0]]._fingerprint)


def _load(location: str, config: str | None) -> "dict[str, Dataset]":
    import datasets

    try:
        if not os.path.isdir(location):
            loaded = datasets.load_dataset(location, config)
        elif os.path.exists(os.path.join(location, "dataset_dict.json")):
            loaded = {name: datasets.load_from_disk(os.path.join(location, name)) for name in _saved_splits(location)}
        elif os.path.exists(os.path.join(location, "state.json")):
            loaded = datasets.load_from_disk(location) if _has_rows(location) else {}
        else:
            loaded = datasets.load_dataset(location)
    except Exception as error:  # the library lets its own, OS, HTTP and Arrow errors through
        raise ValueError(
            f"cannot load a data set from {location!r}: expected a local folder of Parquet or Arrow, or an "
            f"id on the Hugging Face hub and a network ({type(error).__name__}: {error})"
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _saved_splits(location: str) -> list[str]:
    """Returns the splits of a saved data set that have rows; the library cannot load a split without any."""
    with open(os.path.join(location, "dataset_dict.json"), encoding="utf-8") as file:
        names: list[str] = json.load(file)["splits"]
    return [name for name in names if _has_rows(os.path.join(location, name))]


def _has_rows(folder: str) -> bool:
    with open(os.path.join(folder, "state.json"), encoding="utf-8") as file:
        return bool(json.load(file)["_data_files"])


def _encoded_images(table: "Dataset", column: str | None, location: str) -> "Dataset":
    """Returns the table with the one column `image`, whose values are {"bytes", "path"} or bytes, not decoded."""
    import datasets

    candidates = [name for name, feature in table.features.items() if _holds_images(feature)]
    if column is None and len(candidates) != 1:
        raise ValueError(
            f"expected one column of images in {location!r}, found {len(candidates)} among "
            f"{', '.join(map(repr, table.column_names))}: {_hint(table)}"
        )
    name = candidates[0] if column is None else column
    if name not in table.column_names:
        raise ValueError(
            f"expected a column {name!r} in {location!r}, found {', '.join(map(repr, table.column_names))}"
        )
    if not _holds_images(table.features[name]) and table.features[name] != datasets.Value("binary"):
        raise ValueError(
            f"expected images in column {name!r} of {location!r}, found {table.features[name]}: {_hint(table)}"
        )
    table = table.select_columns([name])
    if name != "image":
        table = table.rename_column(name, "image")
    if isinstance(table.features["image"], datasets.Image):
        table = table.cast_column("image", datasets.Image(decode=False))
    return table


def _hint(table: "Dataset") -> str:
    lists = [name for name, feature in table.features.items() if _holds_images(_item(feature))]
    if lists:
        return f"{lists[0]!r} holds lists of images; save the data set with one image in each row"
    return "name it with data.options.column"


def _item(feature: Any) -> Any:
    """Returns the type of the items of a column of lists, which earlier releases of the library wrote as a list."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _holds_images(feature: Any) -> bool:
    """Returns whether a column's type is an image, or the structure in which images are stored."""
    import datasets

    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and set(feature) == {"bytes", "path"})
