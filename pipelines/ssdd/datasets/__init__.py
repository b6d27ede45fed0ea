"""Kedro datasets of the project; every file appears whole or not at all."""

from ssdd.datasets.base import FileDataset
from ssdd.datasets.checkpoint import CheckpointDataset
from ssdd.datasets.figures import PlotlyDataset, PNGDataset
from ssdd.datasets.folder import FolderDataset
from ssdd.datasets.shards import ShardsDataset
from ssdd.datasets.tables import TableDataset
from ssdd.datasets.text import HTMLDataset, JSONDataset, TextDataset

__all__ = [
    "CheckpointDataset",
    "FileDataset",
    "FolderDataset",
    "HTMLDataset",
    "JSONDataset",
    "PNGDataset",
    "PlotlyDataset",
    "ShardsDataset",
    "TableDataset",
    "TextDataset",
]
