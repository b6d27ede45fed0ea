"""A checkpoint as a catalog entry: nodes get and give its path, weights are never held in between."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from kedro_datasets._typing import JSONPreview

from ssdd.datasets.local_files import FileDataset

_MOST_HEADER = 100 * 1024 * 1024  # the format's own limit
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


class CheckpointDataset(FileDataset):
    """A safetensors file, by path.

    `load` returns the Path, its header checked. `save` takes the Path of a finished file that the node has
    written elsewhere (in its state folder) and moves it here at once; a file already here is only checked.
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
            with open(source, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(source, self._filepath)
        except OSError:  # on another disk
            super().save(source)
            source.unlink(missing_ok=True)

    def write(self, data: Path, path: Path) -> None:
        """Copies the finished file."""
        shutil.copyfile(data, path)

    def preview(self) -> JSONPreview:
        """Returns what the header says: configuration, number of tensors and parameters."""
        header = read_header(self._filepath)
        metadata = {name: _unpacked(text) for name, text in header.pop("__metadata__", {}).items()}
        parameters = sum(_count(entry["shape"]) for entry in header.values())
        return JSONPreview(json.dumps({"metadata": metadata, "tensors": len(header), "parameters": parameters}))


def read_header(path: Path) -> dict[str, Any]:
    """Returns a safetensors file's header after checking that the file holds what it says, tensors unread.

    Raises:
        ValueError: it is no safetensors file, or is cut, or its tensors overlap or leave gaps.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MOST_HEADER, size - 8):
            raise ValueError(f"expected a safetensors file, got {path} with a header of {length} bytes out of {size}")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"expected a safetensors header in {path}, got one that cannot be read ({error})") from None
    end = 0
    for start, stop in spans:
        if start != end or stop < start:
            raise ValueError(f"expected the tensors of {path} side by side, got a gap or overlap at byte {start}")
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"expected {end} bytes of tensors in {path}, got {size - 8 - length}: it was cut or altered")
    return header


def _span(name: str, entry: dict[str, Any]) -> tuple[int, int]:
    start, stop = entry["data_offsets"]
    wide = _BYTES.get(entry["dtype"])
    if not all(isinstance(item, int) and item >= 0 for item in (start, stop, *entry["shape"])):
        raise ValueError(f"{name}: shape and offsets are no natural numbers")
    if wide is not None and _count(entry["shape"]) * wide != stop - start:
        raise ValueError(f"{name}: shape {entry['shape']} does not fill {stop - start} bytes")
    return start, stop


def _unpacked(text: str) -> Any:
    """What a text in the header says where it is JSON, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _count(shape: list[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count
