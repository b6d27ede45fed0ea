"""A dataset as the catalog knows it: its file, or its place in memory, and the arguments it is written with.

This is the one module that reads private attributes of Kedro's datasets (`_EPHEMERAL`, `_dataset`,
`_filepath`, `_path`, `_protocol`, `_get_load_path`, `_init_config`). Kedro has no public way to the path of a
dataset or to its arguments; `catalog.to_config()` has the arguments, but leaves out datasets in memory and
paths of versions. tests/lineage/test_catalog_entries.py fails where a release of Kedro changes one of them.
"""

from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.io.core import AbstractDataset, VersionNotFoundError

from ssdd.lineage.parameter_values import plain

# Arguments for the place of a dataset and not for its content: if they counted, a moved project would be stale.
_LOCATIONS = {"filepath", "path", "metadata", "credentials", "version", "versioned", "fs_args"}


def is_parameter(name: str) -> bool:
    """Whether a node input is a parameter."""
    return name == "parameters" or name.startswith("params:")


def base_name(name: str) -> str:
    """Returns the name without its transcoding (`table@pandas` and `table@text` are one file)."""
    return name.partition("@")[0]


def get_dataset(catalog: CatalogProtocol, name: str) -> AbstractDataset:
    """Returns the dataset; one in memory where the catalog has no entry for it."""
    dataset = catalog.get(name, fallback_to_runtime_pattern=True)
    if dataset is None:
        raise AssertionError(f"the catalog has no dataset for {name!r}, not even one in memory")
    return dataset


def in_memory(dataset: AbstractDataset) -> bool:
    """Whether the dataset ends with the session."""
    return bool(getattr(_inside_cache(dataset), "_EPHEMERAL", False))


def artefact_path(dataset: AbstractDataset, name: str) -> Path | None:
    """Returns the local file or folder of a dataset; None for a version that does not exist yet.

    Args:
        name: the catalog entry, for messages.

    Raises:
        ValueError: the dataset has no local path.
    """
    dataset = _inside_cache(dataset)
    if isinstance(path := getattr(dataset, "artefact", None), Path):  # the project's own datasets
        return path
    if getattr(dataset, "_protocol", "file") in ("file", "local", ""):
        try:
            location = dataset._get_load_path() if hasattr(dataset, "_get_load_path") else None
        except VersionNotFoundError:
            return None
        location = location or getattr(dataset, "_filepath", None) or getattr(dataset, "_path", None)
        if location is not None:
            return Path(str(location))
    # A dataset that cannot be hashed would make every comparison true: better no run than a wrong "up to date".
    raise ValueError(
        f"expected the catalog entry {name!r} to be a local file, in memory, or to have a `lineage_token()`, "
        f"got {type(dataset).__name__}: its content cannot be followed"
    )


def lineage_token(dataset: AbstractDataset) -> str | None:
    """Returns the text that stands for the content of a dataset without a file: its `lineage_token()`, if any."""
    token = getattr(dataset, "lineage_token", None)
    return str(token()) if callable(token) else None


def arguments(dataset: AbstractDataset) -> dict[str, Any]:
    """Returns the arguments that a dataset was constructed with, by name."""
    config = {key: value for key, value in dataset._init_config().items() if key not in ("type", "args")}
    inherited = config.pop("kwargs", {})  # Kedro nests the arguments of a class without a constructor of its own
    return {**config, **inherited}


def catalog_config(dataset: AbstractDataset) -> dict[str, Any]:
    """Returns the dataset's type and those arguments that are no location: `save_args`, `load_args`."""
    kept = {key: value for key, value in arguments(dataset).items() if value is not None}
    return {"type": dataset._init_config()["type"], **_without_locations(plain(kept))}


def _inside_cache(dataset: AbstractDataset) -> AbstractDataset:
    """The dataset inside a CachedDataset, which calls itself ephemeral though its file stays."""
    inner = getattr(dataset, "_dataset", None)
    return _inside_cache(inner) if isinstance(inner, AbstractDataset) else dataset


def _without_locations(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_locations(item) for key, item in value.items() if key not in _LOCATIONS}
