"""A checkpoint as a catalog entry: nodes exchange its path, so that no weights stay in memory between them."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from kedro_datasets._typing import JSONPreview

from ssdd.datasets.local_files import FileDataset


class CheckpointDataset(FileDataset):
    """A safetensors file, by path.

    `load` checks the header and returns the Path. `save` takes the Path of a finished file that the node has written
    elsewhere (in its state folder) and moves it here at once; a file that is already here is only checked.
    """

    def read(self, path: Path) -> Path:
        """Returns the path of an intact checkpoint."""
        read_header(path)
        return path

    def save(self, data: Path) -> None:
        """Moves the finished file to its place."""
        source = Path(data)
        read_header(source)
        if source.resolve() == self._filepath.resolve():
            return
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        try:
            # The content must reach the disk before the name does: after a power cut, a file may be empty.
            with open(source, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(source, self._filepath)
        except OSError:  # the state folder is on another disk, where a file cannot be renamed to here
            super().save(source)
            source.unlink(missing_ok=True)

    def write(self, data: Path, path: Path) -> None:
        """Copies the finished file."""
        shutil.copyfile(data, path)

    def preview(self) -> JSONPreview:
        """Returns facts of the header: configuration, number of tensors and of parameters."""
        texts, shapes = read_header(self._filepath)
        metadata = {name: _unpacked(text) for name, text in texts.items()}
        parameters = sum(math.prod(shape) for shape in shapes.values())
        return JSONPreview(json.dumps({"metadata": metadata, "tensors": len(shapes), "parameters": parameters}))


def read_header(path: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Returns the metadata of a safetensors file and the shape of each tensor; no tensor is read.

    safetensors itself checks that the tensors fill the file without gap or overlap, as their shapes and types require.

    Raises:
        ValueError: the file is no safetensors file, or it was cut or altered.
        OSError: the file cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"expected a safetensors file, got {path} ({error}): it is of another kind, cut or altered; make it again"
        ) from None


def _unpacked(text: str) -> Any:
    """Returns the value of a text in the header if it is JSON; else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
