"""What the catalog says of a dataset: its file, or that it lives in memory, and how it is written."""

from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.io.core import AbstractDataset, VersionNotFoundError

from ssdd.lineage.parameter_values import plain

_PLACES = {"filepath", "path", "metadata", "credentials", "version", "versioned", "fs_args"}


def is_parameter(name: str) -> bool:
    """Whether a node input is a parameter."""
    return name == "parameters" or name.startswith("params:")


def base_name(name: str) -> str:
    """The name without its transcoding (`table@pandas` and `table@text` are one file)."""
    return name.partition("@")[0]


def get_dataset(catalog: CatalogProtocol, name: str) -> AbstractDataset:
    """Returns the dataset, one in memory where the catalog does not name it."""
    dataset = catalog.get(name, fallback_to_runtime_pattern=True)
    if dataset is None:
        raise AssertionError(f"the catalog made nothing of {name!r}")
    return dataset


def in_memory(dataset: AbstractDataset) -> bool:
    """Whether the dataset ends with the session."""
    return bool(getattr(dataset, "_EPHEMERAL", False))


def artefact_path(dataset: AbstractDataset, name: str) -> Path | None:
    """Returns the local file or folder that the dataset stands for now; None for a version that is not
    there yet.

    Args:
        name: the catalog entry, for messages.

    Raises:
        ValueError: the dataset has no local path.
    """
    if isinstance(path := getattr(dataset, "artefact", None), Path):
        return path
    if hasattr(dataset, "_dataset") and isinstance(dataset._dataset, AbstractDataset):  # CachedDataset
        return artefact_path(dataset._dataset, name)
    if getattr(dataset, "_protocol", "file") in ("file", "local", ""):
        try:
            place = dataset._get_load_path() if hasattr(dataset, "_get_load_path") else None
        except VersionNotFoundError:
            return None
        place = place or getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
        if place is not None:
            return Path(str(place))
    raise ValueError(
        f"expected the catalog entry {name!r} to be a local file, in memory, or to have a `lineage_token()`, "
        f"got {type(dataset).__name__}: its content cannot be followed"
    )


def lineage_token(dataset: AbstractDataset) -> str | None:
    """Returns what a dataset that is no file says of its content: its `lineage_token()`, if any."""
    token = getattr(dataset, "lineage_token", None)
    return str(token()) if callable(token) else None


def arguments(dataset: AbstractDataset) -> dict[str, Any]:
    """Returns the arguments that a dataset was made with, by name."""
    config = {key: value for key, value in dataset._init_config().items() if key not in ("type", "args")}
    inherited = config.pop("kwargs", {})  # where the class has no constructor of its own
    return {**config, **inherited}


def catalog_config(dataset: AbstractDataset) -> dict[str, Any]:
    """Returns the dataset's type and arguments that are no place: `save_args`, `load_args`."""
    kept = {key: value for key, value in arguments(dataset).items() if value is not None}
    return {"type": dataset._init_config()["type"], **_without_places(plain(kept))}


def _without_places(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_places(item) for key, item in value.items() if key not in _PLACES}
