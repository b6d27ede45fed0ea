"""Kedro datasets of the project: every file appears whole or not at all."""

from ssdd.datasets.checkpoint_dataset import CheckpointDataset
from ssdd.datasets.figure_datasets import PlotlyDataset, PNGDataset
from ssdd.datasets.folder_dataset import FolderDataset
from ssdd.datasets.local_files import FileDataset, LibraryDataset
from ssdd.datasets.shards_dataset import ShardsDataset
from ssdd.datasets.table_dataset import TableDataset
from ssdd.datasets.text_datasets import HTMLDataset, JSONDataset, OptionalJSONDataset, TextDataset

__all__ = [
    "CheckpointDataset",
    "FileDataset",
    "FolderDataset",
    "HTMLDataset",
    "JSONDataset",
    "LibraryDataset",
    "OptionalJSONDataset",
    "PNGDataset",
    "PlotlyDataset",
    "ShardsDataset",
    "TableDataset",
    "TextDataset",
]
