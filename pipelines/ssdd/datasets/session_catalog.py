"""The catalog of a session."""

from typing import Any

from kedro.framework.context import CatalogCommandsMixin
from kedro.io import DataCatalog, MemoryDataset
from kedro.io.core import AbstractDataset

from ssdd.lineage.catalog_entries import is_parameter


class SessionCatalog(DataCatalog, CatalogCommandsMixin):
    """Kedro's own catalog, which keeps parameters without an import of pandas.

    Kedro imports pandas, and looks for ibis once for each parameter, to choose how a value in memory is copied. No
    parameter is a table, so that all of them are copied as Kedro would copy them.
    """

    def __setitem__(self, key: str, value: Any) -> None:
        """Adds a dataset, or a value that is kept in memory."""
        if is_parameter(key) and not isinstance(value, AbstractDataset):
            value = MemoryDataset(value, copy_mode="deepcopy")
        super().__setitem__(key, value)
