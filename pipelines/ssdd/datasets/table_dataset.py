"""Tables as catalog entries, read and written by kedro-datasets: CSV for people, Parquet for many rows.

The preview is written here: the library's has every digit and the whole text of a cell, too wide for Kedro-Viz.
"""

import json
from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset
from kedro_datasets._typing import TablePreview

from ssdd.datasets.local_files import LibraryDataset

_LONGEST = 48  # letters of a text in a preview


class TableDataset(LibraryDataset):
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
        # pandas reads the last digit of a number exactly only if it is told to, or from release 3 on.
        exact = {"float_precision": "round_trip"} if self._filepath.suffix == ".csv" else {}
        self._load_args = {**exact, **(load_args or {})}
        self._save_args = {"index": False, **(save_args or {})}

    def dataset_at(self, path: Path) -> AbstractDataset:
        """Returns the library's dataset of tables, by the suffix."""
        from kedro_datasets.pandas import CSVDataset, ParquetDataset

        if path.suffix == ".parquet":
            return ParquetDataset(filepath=path, load_args=self._load_args, save_args=self._save_args)
        # CSV is always read as UTF-8, but written in the encoding of the machine unless it is stated.
        utf8 = {"open_args_save": self.TEXT["open_args_save"]}
        return CSVDataset(filepath=path, load_args=self._load_args, save_args=self._save_args, fs_args=utf8)

    def preview(self, nrows: int = 10) -> TablePreview:
        """Returns the first rows, shortened for the eye."""
        table = json.loads(self.load().head(nrows).to_json(orient="split", double_precision=15))
        table["data"] = [[_short(value) for value in row] for row in table["data"]]
        return TablePreview(table)


def _short(value: Any) -> Any:
    """Rounds a number to five digits, and cuts a long text."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, str) and len(value) > _LONGEST:
        return f"{value[:_LONGEST]}…"
    return value
