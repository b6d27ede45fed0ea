"""Samples in shards: a folder of safetensors files, each whole or not at all, made one after another.

A file that is there is finished: a call that was interrupted goes on with the next one.
"""

# n samples of a shard, N of all

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssdd.files import atomic_write
from ssdd.progress import bar

SHARD_SIZE = 1024

Make = Callable[[range, Callable[[int], None]], Mapping[str, Tensor]]
"""Numbers of samples, and a function that counts finished ones -> tensors by name, with a row for every number."""


def write_shards(folder: Path, name: str, count: int, make: Make, title: str | None = None) -> Path:
    """Writes the samples 0 to N - 1, `SHARD_SIZE` to a file; finished files of the folder are kept.

    Args:
        folder: of these samples alone, empty or left by an earlier call with the same arguments.
        name: of the files, `<name>-00000.safetensors`.
        count: N.
        make: makes some samples; what it makes must not depend on which ones come together.
        title: of a progress bar; None shows none.

    Returns:
        the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with bar(title or "", count, show=title is not None) as advance:
        for number, start in enumerate(range(0, count, SHARD_SIZE)):
            numbers = range(start, min(start + SHARD_SIZE, count))
            file = folder / f"{name}-{number:05d}.safetensors"
            if not file.is_file():
                tensors = make(numbers, advance)
                with atomic_write(file) as temporary:
                    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
            else:
                advance(len(numbers))
    return folder


def read_shards(folder: Path, name: str) -> Iterator[dict[str, Tensor]]:
    """Yields the tensors of each file of that name, in order.

    Raises:
        ValueError: there is none.
    """
    files = sorted(folder.glob(f"{name}-*.safetensors"))
    if not files:
        raise ValueError(f"expected files {name}-*.safetensors in {folder}, found none: make the samples again")
    for file in files:
        yield load_file(file)


def read_rows(folder: Path, name: str, key: str, start: int, stop: int) -> Tensor:
    """Returns rows start to stop of a tensor; both must lie in one shard."""
    with safe_open(folder / f"{name}-{start // SHARD_SIZE:05d}.safetensors", "pt") as file:
        first = start // SHARD_SIZE * SHARD_SIZE
        return file.get_slice(key)[start - first : stop - first]


def pieces(numbers: range, size: int) -> Iterator[range]:
    """Cuts numbers into runs of at most `size`."""
    for start in range(numbers.start, numbers.stop, size):
        yield range(start, min(start + size, numbers.stop))


def joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Joins tensors of several batches by name."""
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
