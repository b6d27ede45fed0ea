"""A folder of the user's files, such as photographs, as a catalog entry: nodes get its path."""

import os
from functools import partial
from pathlib import Path
from typing import Any

from ssdd.datasets.local_files import LocalDataset


class FolderDataset(LocalDataset):
    """A folder to read from; the names and contents below it count for the lineage.

    Args:
        filepath: the folder, or an address such as `s3://bucket/folder`, whose listing counts for the lineage; None
            stands for no folder (the embedded sample). Addresses and None load as None.
        metadata: settings of other tools.
    """

    def __init__(self, *, filepath: str | None = None, metadata: dict[str, Any] | None = None) -> None:
        remote = filepath is not None and "://" in filepath
        self._filepath = None if filepath is None or remote else Path(os.path.expanduser(filepath))
        self.metadata = metadata
        if self._filepath is None:
            # Without a path, the lineage needs a token of the content.
            self.lineage_token = partial(_listing, filepath)

    @property
    def artefact(self) -> Path | None:
        """The folder, for the lineage."""
        return self._filepath

    def load(self) -> Path | None:
        """Returns the folder.

        Raises:
            DatasetError: the folder is missing, or may not be read.
        """
        if self._filepath is not None:
            os.scandir(self._filepath).close()  # raises now, and not in the middle of the node
        return self._filepath

    def save(self, data: Any) -> None:
        """Refuses: nodes may only read the user's files."""
        raise ValueError(f"expected {self._filepath} to be read only")

    def _exists(self) -> bool:
        return self._filepath is None or self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": None if self._filepath is None else str(self._filepath)}


def _listing(url: str | None) -> str:
    """Returns the names, sizes and tags of all files at an address."""
    if url is None:
        return "no folder"
    from ssdd.data.web_files import open_files

    return "\n".join(f"{name} {version}" for name, version in open_files(url).listing().items())
