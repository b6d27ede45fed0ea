"""Text, JSON and HTML as catalog entries, read and written by kedro-datasets."""

import hashlib
import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import HTMLPreview, JSONPreview

from ssdd.datasets.local_files import LibraryDataset


class TextDataset(LibraryDataset):
    """A text file, UTF-8."""

    def dataset_at(self, path: Path) -> AbstractDataset:
        """Returns the library's dataset of text."""
        from kedro_datasets.text import TextDataset as Text

        return Text(filepath=path, fs_args=self.TEXT)


class HTMLDataset(TextDataset):
    """A page of HTML."""

    def preview(self) -> HTMLPreview:
        """Returns the page."""
        return HTMLPreview(self.load())


class JSONDataset(LibraryDataset):
    """A JSON document: mappings, lists, text, numbers."""

    def dataset_at(self, path: Path) -> AbstractDataset:
        """Returns the library's dataset of JSON, indented and with letters unescaped, since people read these files."""
        from kedro_datasets.json import JSONDataset as Json

        return Json(filepath=path, save_args={"indent": 2, "ensure_ascii": False}, fs_args=self.TEXT)

    def write(self, data: Any, path: Path) -> None:
        """Writes the document and a final newline, without which equal results of earlier versions would differ."""
        super().write(data, path)
        with open(path, "a", encoding="utf-8") as file:
            file.write("\n")

    def preview(self) -> JSONPreview:
        """Returns the document as text."""
        return JSONPreview(json.dumps(self.load()))


class OptionalJSONDataset(JSONDataset):
    """A JSON document that may not be there: then it loads as None, and a node that takes it does without.

    For a result that one pipeline makes and the nodes of others use if it exists.
    """

    def lineage_token(self) -> str:
        """Stands for the content in the lineage, which would ask for a file."""
        return hashlib.sha256(self._filepath.read_bytes()).hexdigest() if self._filepath.is_file() else "none"

    def load(self) -> Any:
        """Returns the document, or None."""
        return super().load() if self._filepath.is_file() else None

    def preview(self) -> JSONPreview:
        """Returns the document as text, without long texts in it."""
        short = {
            key: value for key, value in (self.load() or {}).items() if not isinstance(value, str) or len(value) < 1000
        }
        return JSONPreview(json.dumps(short))
