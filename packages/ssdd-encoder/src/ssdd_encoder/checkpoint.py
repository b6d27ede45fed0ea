"""Checkpoints: one safetensors file with its configuration in the header. No pickle is ever read.

`write` makes the header, `header.read` reads it. Git holds this file once; the decoder package has a link.
"""

import ctypes
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from . import header
from .files import atomic_write
from .header import CONFIG_KEY, DIGEST_KEY, FORMAT, FORMAT_KEY, NO_DIGEST, Header, bare, count, reading, seal

DTYPES = {getattr(torch, name): code for name, code in header.DTYPES.items()}
WEIGHT_DTYPES = tuple(dtype for dtype in DTYPES if dtype.is_floating_point)


@dataclass(frozen=True)
class Contents(Header):
    """A checkpoint file that has been read.

    Args:
        tensors: as in the header; they have shapes but no values (meta device) where only the header was read.
    """

    tensors: dict[str, Tensor]

    def fill(self, module: nn.Module, tensors: Mapping[str, Tensor], *, asked: str, held: str | None) -> None:
        """Moves tensors of this file into a module (which may be on the meta device), all of them or none.

        Tensors of several dtypes are converted to the one that holds them all.

        Args:
            module: the network to fill.
            tensors: by the module's keys.
            asked: describes the module, for the message.
            held: describes the network in the file, where that is known.

        Raises:
            CheckpointError: a key is missing or left over, or a shape or dtype differs.
        """
        wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        odd = [key for key, value in tensors.items() if value.dtype not in WEIGHT_DTYPES]
        if wanted == found and not odd:
            dtype = reduce(torch.promote_types, {value.dtype for value in tensors.values()})
            module.load_state_dict({key: value.to(dtype) for key, value in tensors.items()}, strict=True, assign=True)
            module.requires_grad_(True)
            return
        if held and held != asked:
            raise self.mismatch(tensors, asked=asked, held=held)
        problems = [
            *(f"{key} is missing" for key in wanted if key not in found),
            *(f"{key[:100]} is left over" for key in found if key not in wanted),
            *(f"{key} is {found[key]}, not {shape}" for key, shape in wanted.items() if found.get(key, shape) != shape),
            *(f"{key[:100]} is {tensors[key].dtype}, not floating point of 16 to 64 bits" for key in odd),
        ]
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise self.refusal(
            f"({len(found)} tensors, {count(tensors)}) does not fit {asked}: {'; '.join(problems[:3])}{more}"
        )


def write(
    file: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a checkpoint whole or not at all.

    The safetensors library reads these files, but its writer needs numpy, which torch does not bring, and it cannot put
    a hash of the whole file into the header.

    Args:
        file: its path, ending in `.safetensors`; a file that is there is replaced only by a complete one.
        tensors: by key.
        config: configuration by part (JSON-able).
        metadata: further header entries.

    Raises:
        OSError: the disk is full or not writable; the previous file is untouched.
        ValueError: a tensor has a dtype that such files do not hold.
    """
    # Large elements first: every tensor then starts at a multiple of its element size, as readers that map files need.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    ours = {FORMAT_KEY: str(FORMAT), CONFIG_KEY: json.dumps(config, sort_keys=True), DIGEST_KEY: NO_DIGEST}
    entries = {**(metadata or {}), **ours}
    start = _header(ordered, entries)
    digest = hashlib.sha256(start)
    with atomic_write(file) as temporary, open(temporary, "wb") as opened:
        opened.write(start)
        for tensor in ordered.values():
            here = tensor.detach().cpu().contiguous()
            # The bytes of the tensor itself: neither `numpy()`, nor a copy that would double the memory of a large one.
            content = (ctypes.c_char * (here.numel() * here.element_size())).from_address(here.data_ptr())
            digest.update(content)
            opened.write(content)
        # The hash is known only now. It replaces as many zeros in the header, so that no offset changes.
        opened.seek(start.index(seal(NO_DIGEST)))
        opened.write(seal(digest.hexdigest()))
    return file


def read(file: str | os.PathLike[str]) -> Contents:
    """Reads a checkpoint into memory, and checks its hash if its header has one.

    Raises:
        CheckpointError: the file is missing, is a pickle, is truncated or was altered.
    """
    found = header.read(file)
    with reading(found.file), safe_open(found.file, framework="pt") as opened:
        # Copies, since the tensors themselves are views of the mapped file.
        tensors = {bare(key): opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118
    return Contents(found.file, found.config, tensors, found.metadata, found.checked)


def read_header(file: str | os.PathLike[str]) -> Contents:
    """Reads only a checkpoint's header: configuration, metadata, and the shape (not the dtype) of each tensor.

    The hash is not checked, since that would read the whole file.

    Raises:
        CheckpointError: the file is missing, is a pickle or is truncated.
    """
    found = header.read(file, check=False)
    with reading(found.file):  # PyTorch refuses some shapes
        tensors = {key: torch.empty(described.shape, device="meta") for key, described in found.tensors.items()}
    return Contents(found.file, found.config, tensors, found.metadata)


def _header(tensors: Mapping[str, Tensor], entries: Mapping[str, str]) -> bytes:
    """The start of a safetensors file: length (8 bytes, little-endian), then JSON padded to a multiple of 8 bytes."""
    table: dict[str, Any] = {"__metadata__": dict(entries)}
    end = 0
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"expected {key} to have a dtype that safetensors holds, got {tensor.dtype}: convert it")
        start, end = end, end + tensor.numel() * tensor.element_size()
        table[key] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
