"""Common parts of the project's datasets: local artefacts, and single files that appear whole or not at all."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro.io.core import DatasetError

from ssdd.files import atomic_write


class LocalDataset(AbstractDataset):
    """An artefact on this machine's disk."""

    def _init_config(self) -> dict[str, Any]:
        """Returns the arguments by name; Kedro nests those of a class without a constructor of its own."""
        config = super()._init_config()
        config.pop("args", None)
        config |= config.pop("kwargs", {})
        return {key: value for key, value in config.items() if key != "metadata" and value is not None}


class FileDataset(LocalDataset):
    """One local file.

    Args:
        filepath: path of the file; its folder is made when saving.
        metadata: settings of other tools (Kedro-Viz: layer, preview arguments); no part of the data.
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
        """Returns the content of the file."""

    @abstractmethod
    def write(self, data: Any, path: Path) -> None:
        """Writes `data` to a temporary file with the final one's suffix."""

    def load(self) -> Any:
        """Returns the content of the file.

        Raises:
            DatasetError: there is no such file, or its content is damaged; the cause is attached.
        """
        return self.read(self._filepath)

    def save(self, data: Any) -> None:
        """Replaces the file as a whole.

        A run can be killed at any moment, and the next run would read a half-written file under its final name.

        Raises:
            DatasetError: the disk is full or the data do not fit; the previous file is untouched.
        """
        with atomic_write(self._filepath) as temporary:
            self.write(data, temporary)

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


class LibraryDataset(FileDataset):
    """One local file in a format of kedro-datasets, which reads and writes it.

    The library's datasets write to the final file itself and take their encoding from the machine. Here they write to
    a temporary file, and text is UTF-8. In return the project needs no code for the formats, and knows the library's
    `load_args` and `save_args`.
    """

    TEXT = {  # noqa: RUF012  (the library copies it)
        "open_args_load": {"mode": "r", "encoding": "utf-8"},
        "open_args_save": {"mode": "w", "encoding": "utf-8"},
    }

    @abstractmethod
    def dataset_at(self, path: Path) -> AbstractDataset:
        """Returns the library's dataset for a path.

        Its import belongs here: `kedro run` makes every catalog entry at its start, and pandas and plotly take 2 s.
        """

    def read(self, path: Path) -> Any:
        """Returns the content of the file."""
        with _cause_alone():
            return self.dataset_at(path).load()

    def write(self, data: Any, path: Path) -> None:
        """Writes `data` to a temporary file."""
        with _cause_alone():
            self.dataset_at(path).save(data)


@contextmanager
def _cause_alone() -> Iterator[None]:
    """Raises the cause of the library's error, since its message names the temporary file and not the entry's."""
    try:
        yield
    except DatasetError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
