"""Kedro's own datasets, of which lineage reads private attributes: a release of Kedro that changes them fails here."""

import pandas
import pytest
from kedro.io import CachedDataset, DataCatalog, MemoryDataset
from kedro.io.core import Version
from kedro_datasets.pandas import CSVDataset

from ssdd.lineage.catalog_entries import artefact_path, catalog_config, get_dataset, in_memory

TABLE = pandas.DataFrame({"x": [1, 2]})


def test_a_file_of_kedros_own_datasets_is_found(tmp_path):
    file = tmp_path / "a.csv"
    for dataset in (CSVDataset(filepath=str(file)), CachedDataset(CSVDataset(filepath=str(file)))):
        assert artefact_path(dataset, "a") == file
        assert not in_memory(dataset)


def test_the_file_of_a_version_is_the_one_that_would_be_loaded(tmp_path):
    dataset = CSVDataset(filepath=str(tmp_path / "a.csv"), version=Version(None, None))
    assert artefact_path(dataset, "a") is None
    dataset.save(TABLE)
    (saved,) = (tmp_path / "a.csv").glob("*/a.csv")
    assert artefact_path(dataset, "a") == saved


def test_a_file_elsewhere_is_refused():
    with pytest.raises(ValueError, match="expected the catalog entry 'a' to be a local file"):
        artefact_path(CSVDataset(filepath="memory://bucket/a.csv"), "a")


def test_memory_ends_with_the_session():
    assert in_memory(MemoryDataset(1))
    assert in_memory(get_dataset(DataCatalog(), "not in the catalog"))


def test_arguments_count_and_locations_do_not(tmp_path):
    def config(name, **arguments):
        return catalog_config(CSVDataset(filepath=str(tmp_path / name), **arguments))

    assert config("a.csv") == config("b.csv", metadata={"layer": "x"}, version=Version(None, None))
    assert config("a.csv")["type"].endswith("CSVDataset")
    assert config("a.csv", save_args={"sep": ";"}) != config("a.csv", save_args={"sep": ","})
