"""Text, JSON and HTML as catalog entries."""

import json
from pathlib import Path
from typing import Any

from kedro_datasets._typing import HTMLPreview, JSONPreview

from ssdd.datasets.local_files import FileDataset


class TextDataset(FileDataset):
    """A text file, UTF-8."""

    def read(self, path: Path) -> str:
        """Returns the text."""
        return path.read_text(encoding="utf-8")

    def write(self, data: str, path: Path) -> None:
        """Writes the text."""
        if not isinstance(data, str):
            raise ValueError(f"expected text for {self._filepath.name}, got {type(data).__name__}")
        path.write_text(data, encoding="utf-8")


class HTMLDataset(TextDataset):
    """A page of HTML."""

    def preview(self) -> HTMLPreview:
        """Returns the page."""
        return HTMLPreview(self.load())


class JSONDataset(FileDataset):
    """A JSON document: mappings, lists, text, numbers."""

    def read(self, path: Path) -> Any:
        """Returns the document."""
        return json.loads(path.read_text(encoding="utf-8"))

    def write(self, data: Any, path: Path) -> None:
        """Writes the document, indented."""
        path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def preview(self) -> JSONPreview:
        """Returns the document as text."""
        return JSONPreview(json.dumps(self.load()))
