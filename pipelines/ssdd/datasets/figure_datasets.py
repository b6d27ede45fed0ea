"""Pictures and interactive figures as catalog entries.

Figures of plotly are read and written by kedro-datasets. Pictures are not: the library has a dataset for each drawing
library, and that of matplotlib writes its version into the file, so that equal pictures would differ after an update.
"""

import base64
import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import ImagePreview, PlotlyPreview

from ssdd.datasets.local_files import FileDataset, LibraryDataset


class PNGDataset(FileDataset):
    """A picture: a matplotlib figure, a PIL image, or a uint8 array (H, W, 3); loaded as a PIL image.

    Args:
        dpi: pixels per inch of a matplotlib figure.
    """

    def __init__(self, *, filepath: str, dpi: int = 120, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._dpi = dpi

    def read(self, path: Path) -> Any:
        """Returns the picture as a PIL image."""
        from PIL import Image

        with Image.open(path) as image:
            image.load()
            return image

    def write(self, data: Any, path: Path) -> None:
        """Writes the picture without date and program name, so that equal pictures are equal files."""
        if hasattr(data, "savefig"):
            data.savefig(path, format="png", dpi=self._dpi, metadata={"Software": None})
            return
        from PIL import Image

        image = data if isinstance(data, Image.Image) else Image.fromarray(data)
        image.save(path, format="PNG")

    def preview(self) -> ImagePreview:
        """Returns the picture in base64."""
        return ImagePreview(base64.b64encode(self._filepath.read_bytes()).decode())


class PlotlyDataset(LibraryDataset):
    """An interactive plotly figure, kept as JSON."""

    def dataset_at(self, path: Path) -> AbstractDataset:
        """Returns the library's dataset of figures."""
        from kedro_datasets.plotly import JSONDataset as Figure

        return Figure(filepath=path)

    def preview(self) -> PlotlyPreview:
        """Returns the figure for Kedro-Viz to draw."""
        # Not the library's `preview`: it would import plotly, 2 s, to return the file's JSON as it is.
        return PlotlyPreview(json.loads(self._filepath.read_text(encoding="utf-8")))
