"""A folder that people fill, such as photographs, as a catalog entry: nodes get its path."""

import os
from pathlib import Path
from typing import Any

from ssdd.datasets.local_files import LocalDataset


class FolderDataset(LocalDataset):
    """A folder to read from; its lineage is that of the names and contents below it.

    Args:
        filepath: the folder; None stands for no folder (the embedded sample), which loads as None.
        metadata: for other tools.
    """

    def __init__(self, *, filepath: str | None = None, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = None if filepath is None else Path(filepath).expanduser()
        self.metadata = metadata
        if self._filepath is None:
            self.lineage_token = lambda: "no folder"

    @property
    def artefact(self) -> Path | None:
        """The folder, for the lineage."""
        return self._filepath

    def load(self) -> Path | None:
        """Returns the folder.

        Raises:
            DatasetError: it is missing, or is not to be read.
        """
        if self._filepath is not None:
            os.scandir(self._filepath).close()
        return self._filepath

    def save(self, data: Any) -> None:
        """Refused: nodes only read it."""
        raise ValueError(f"expected {self._filepath} to be read only")

    def _exists(self) -> bool:
        return self._filepath is None or self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": None if self._filepath is None else str(self._filepath)}
