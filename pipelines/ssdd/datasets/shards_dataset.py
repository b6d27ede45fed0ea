"""A folder of shards that a node wrote, as one catalog entry."""

import json
import os
import shutil
from pathlib import Path

from kedro_datasets._typing import JSONPreview

from ssdd.datasets.folder_dataset import FolderDataset


class ShardsDataset(FolderDataset):
    """A folder by path; the names and contents below it count for the lineage.

    `save` takes the Path of a finished folder that the node has written elsewhere on the same disk (in its state
    folder) and moves it here at once.
    """

    def save(self, data: Path) -> None:
        """Moves the finished folder to its place and removes the previous one."""
        if self._filepath is None:
            raise ValueError("expected a folder to save to, got none")
        source = Path(data)
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        before = self._filepath.with_name(f".{self._filepath.name}.before")
        shutil.rmtree(before, ignore_errors=True)
        # A folder cannot replace a full one in one step. A kill between the two renames leaves no folder, and the
        # lineage runs the node again; at no moment are old and new shards mixed.
        if self._filepath.exists():
            os.replace(self._filepath, before)
        os.replace(source, self._filepath)
        shutil.rmtree(before, ignore_errors=True)

    def preview(self) -> JSONPreview:
        """Returns the names and sizes of the files."""
        files = sorted(self._filepath.iterdir()) if self._filepath else []
        return JSONPreview(json.dumps({file.name: file.stat().st_size for file in files}))
