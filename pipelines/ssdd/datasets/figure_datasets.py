"""Pictures and interactive figures as catalog entries."""

import base64
import json
from pathlib import Path
from typing import Any

from kedro_datasets._typing import ImagePreview, PlotlyPreview

from ssdd.datasets.local_files import FileDataset


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
        """Writes the picture, without a date or a program's name, so that equal pictures are equal files."""
        if hasattr(data, "savefig"):
            data.savefig(path, format="png", dpi=self._dpi, metadata={"Software": None})
            return
        from PIL import Image

        image = data if isinstance(data, Image.Image) else Image.fromarray(data)
        image.save(path, format="PNG")

    def preview(self) -> ImagePreview:
        """Returns the picture in base64."""
        return ImagePreview(base64.b64encode(self._filepath.read_bytes()).decode())


class PlotlyDataset(FileDataset):
    """An interactive plotly figure, kept as JSON."""

    def read(self, path: Path) -> Any:
        """Returns the figure."""
        import plotly.io

        return plotly.io.from_json(path.read_text(encoding="utf-8"))

    def write(self, data: Any, path: Path) -> None:
        """Writes the figure."""
        path.write_text(data.to_json(), encoding="utf-8")

    def preview(self) -> PlotlyPreview:
        """Returns the figure for Kedro-Viz to draw."""
        return PlotlyPreview(json.loads(self._filepath.read_text(encoding="utf-8")))
