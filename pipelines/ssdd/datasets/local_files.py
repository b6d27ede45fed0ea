"""The common part of the project's datasets: something local; one local file, written whole or not at all."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset

from ssdd.files import atomic_write


class LocalDataset(AbstractDataset):
    """Something on this machine's disk."""

    def _init_config(self) -> dict[str, Any]:
        """Returns the arguments by name; Kedro nests those of a class without a constructor of its own."""
        config = super()._init_config()
        config.pop("args", None)
        config |= config.pop("kwargs", {})
        return {key: value for key, value in config.items() if key != "metadata" and value is not None}


class FileDataset(LocalDataset):
    """One local file.

    Args:
        filepath: where it lies; its folder is made when saving.
        metadata: for other tools (Kedro-Viz: layer, preview arguments); no part of the data.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    @property
    def artefact(self) -> Path:
        """The file, for the lineage."""
        return self._filepath

    @abstractmethod
    def read(self, path: Path) -> Any:
        """Returns what the file holds."""

    @abstractmethod
    def write(self, data: Any, path: Path) -> None:
        """Writes `data` to a temporary file with the final one's suffix."""

    def load(self) -> Any:
        """Returns what the file holds.

        Raises:
            DatasetError: there is no such file, or it does not hold what it should; the cause is attached.
        """
        return self.read(self._filepath)

    def save(self, data: Any) -> None:
        """Replaces the file as a whole.

        Raises:
            DatasetError: the disk is full or the data do not fit; the previous file is untouched.
        """
        with atomic_write(self._filepath) as temporary:
            self.write(data, temporary)

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
