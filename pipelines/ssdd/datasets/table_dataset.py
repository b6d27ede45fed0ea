"""Tables as catalog entries: CSV to be read by people, Parquet for many rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro_datasets._typing import TablePreview

from ssdd.datasets.local_files import FileDataset

if TYPE_CHECKING:
    import pandas


_LONGEST = 48  # letters of a text in a preview


class TableDataset(FileDataset):
    """A pandas DataFrame in a `.csv` or `.parquet` file; its index is not kept.

    Args:
        load_args: passed to pandas' reader.
        save_args: passed to pandas' writer.
    """

    def __init__(
        self,
        *,
        filepath: str,
        load_args: dict[str, Any] | None = None,
        save_args: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        if self._filepath.suffix not in (".csv", ".parquet"):
            raise ValueError(f"expected a table ending in .csv or .parquet, got {filepath}")
        self._load_args = load_args or {}
        self._save_args = save_args or {}

    def read(self, path: Path) -> pandas.DataFrame:
        """Returns the table."""
        import pandas

        if path.suffix == ".csv":
            return pandas.read_csv(path, **self._load_args)
        return pandas.read_parquet(path, **self._load_args)

    def write(self, data: pandas.DataFrame, path: Path) -> None:
        """Writes the table; floats keep every digit."""
        if path.suffix == ".csv":
            data.to_csv(path, index=False, **self._save_args)
        else:
            data.to_parquet(path, index=False, **self._save_args)

    def preview(self, nrows: int = 10) -> TablePreview:
        """Returns the first rows, shortened for the eye."""
        table = json.loads(self.load().head(nrows).to_json(orient="split", double_precision=15))
        table["data"] = [[_short(value) for value in row] for row in table["data"]]
        return TablePreview(table)


def _short(value: Any) -> Any:
    """Five digits, and the beginning of long text."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]}…"
    return value
