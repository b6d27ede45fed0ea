"""Checkpoints: one safetensors file with its configuration in the header. No pickle is ever read.

`write` makes the header, `read_header` reads it. Git holds this file once; the decoder package has a link.
"""

import ctypes
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from .files import LFS_POINTER, LFS_REMEDY, atomic_write, first_bytes
from .sources import CheckpointError

CONFIG_KEY = "ssdd"  # header entry: JSON of {part: configuration}
DIGEST_KEY = "ssdd_sha256"  # header entry: hash of the whole file, computed with this entry all zeros
NO_DIGEST = "0" * 64
FORMAT_KEY = "ssdd_format"  # header entry: version of this layout; files of the first releases lack it, and have 1
FORMAT = 1
PARTS = ("encoder", "decoder")  # the names that stand before the keys of a file with both networks
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
WEIGHT_DTYPES = tuple(dtype for dtype in DTYPES if dtype.is_floating_point)
_WRAPPERS = re.compile(r"(^|\.)(?:module|_orig_mod|first_stage_model)\.")
# AttributeError: safetensors raises it for a dtype that this PyTorch does not have.
_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError)
_Config = TypeVar("_Config")


@dataclass(frozen=True)
class Contents:
    """A checkpoint file that has been read.

    Errors about a file come from the methods here: each package has its own `CheckpointError`, so a caller who passes
    one package's contents to the other package's network needs to know only one.

    Args:
        file: its path.
        config: configuration by part, from the header; empty for files not written by this project.
        tensors: by key, without the prefixes that DataParallel, torch.compile and latent diffusion leave. They have
            shapes but no values (meta device) where only the header was read.
        metadata: the other entries of the header.
        checked: whether the header has a hash of the file and the file matches it.
    """

    file: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    checked: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the keys' prefixes name, or else the header's only part; empty where neither names one."""
        prefixed = tuple(part for part in PARTS if any(key.startswith(f"{part}.") for key in self.tensors))
        described = tuple(part for part in PARTS if part in self.config)
        # With both parts in the header, keys without a prefix could belong to either.
        return prefixed or (described if len(described) == 1 else ())

    def holds(self, part: str, own: tuple[str, ...]) -> bool:
        """Returns whether the file holds a part.

        Args:
            part: `encoder` or `decoder`.
            own: prefixes of keys that only this part has. They decide if neither keys nor header name the file's parts.
        """
        return part in self.parts if self.parts else any(key.startswith(own) for key in self.tensors)

    def select(self, part: str, own: tuple[str, ...], beside: tuple[str, ...] = ()) -> dict[str, Tensor]:
        """Returns the tensors of `encoder` or `decoder`, without that prefix.

        Args:
            part, own: as for `holds`.
            beside: prefixes of the part's keys that lack its name in other projects' layouts; such files may hold more.

        Raises:
            CheckpointError: the file does not hold the part, or holds tensors that belong to no part.
        """
        if not self.holds(part, own):
            held = f"{' and '.join(self.parts)}, " if self.parts else ""
            raise self.refusal(f"holds {held}no {part}: give a file with one")
        selected = {key.removeprefix(f"{part}."): t for key, t in self.tensors.items() if key.startswith(f"{part}.")}
        if not selected:
            return dict(self.tensors)
        outside = {key: t for key, t in self.tensors.items() if not key.startswith(tuple(f"{p}." for p in PARTS))}
        kept = {key: tensor for key, tensor in outside.items() if key.startswith(beside)}
        # If such tensors were ignored, a file of another model could pass for a good one.
        if outside and not kept:
            raise self.refusal(
                f"holds {len(outside)} tensors that belong to neither encoder nor decoder, such as "
                f"{min(outside)[:100]}: take another copy"
            )
        return selected | kept

    def parse_config(self, part: str, kind: type[_Config]) -> _Config | None:
        """Makes a part's configuration from the header's JSON; None where the header does not describe the part.

        Raises:
            CheckpointError: a field is unknown, or a value is not allowed.
        """
        if part not in self.config:
            return None
        values = self.config[part]
        try:
            if not isinstance(values, dict):
                raise ValueError(f"expected a table of fields, got {type(values).__name__}")
            known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
            if unknown := sorted(set(values) - known):
                raise ValueError(f"unknown fields {unknown[:5]}")
            return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
        except (TypeError, ValueError) as error:
            raise self.refusal(f"has a header that this version cannot read: {error}") from error

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
            f"({len(found)} tensors, {_count(tensors)}) does not fit {asked}: {'; '.join(problems[:3])}{more}"
        )

    def mismatch(self, tensors: Mapping[str, Tensor], *, asked: str, held: str) -> CheckpointError:
        """Makes the error for a file that holds another network than the one asked for."""
        return CheckpointError(f"this file holds {held} ({_count(tensors)}); {asked} was asked for: {self.file}")

    def refusal(self, problem: str) -> CheckpointError:
        """Makes the error for this file, which is the subject of the sentence."""
        return CheckpointError(f"{self.file} {problem}")


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
    header = _header(ordered, entries)
    digest = hashlib.sha256(header)
    with atomic_write(file) as temporary, open(temporary, "wb") as opened:
        opened.write(header)
        for tensor in ordered.values():
            here = tensor.detach().cpu().contiguous()
            # The bytes of the tensor itself: neither `numpy()`, nor a copy that would double the memory of a large one.
            content = (ctypes.c_char * (here.numel() * here.element_size())).from_address(here.data_ptr())
            digest.update(content)
            opened.write(content)
        # The hash is known only now. It replaces as many zeros in the header, so that no offset changes.
        opened.seek(header.index(_seal(NO_DIGEST)))
        opened.write(_seal(digest.hexdigest()))
    return file


def read(file: str | os.PathLike[str]) -> Contents:
    """Reads a checkpoint into memory, and checks its hash if its header has one.

    Raises:
        CheckpointError: the file is missing, is a pickle, is truncated or was altered.
    """
    return _read(Path(file), with_values=True)


def read_header(file: str | os.PathLike[str]) -> Contents:
    """Reads only a checkpoint's header: configuration, metadata, and the shape (not the dtype) of each tensor.

    The hash is not checked, since that would read the whole file.

    Raises:
        CheckpointError: the file is missing, is a pickle or is truncated.
    """
    return _read(Path(file), with_values=False)


def _read(file: Path, with_values: bool) -> Contents:
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}: check the path")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            sealed = metadata.pop(DIGEST_KEY, None)
            if with_values and sealed is not None and _digest(file, sealed) != sealed:
                raise CheckpointError(f"{file} is damaged: its content does not match its hash. Take another copy")
            if (layout := metadata.pop(FORMAT_KEY, "1")) not in map(str, range(1, FORMAT + 1)):
                raise CheckpointError(f"{file} has layout {layout[:20]!r}, expected {FORMAT} at most: update this code")
            config = json.loads(metadata.pop(CONFIG_KEY, "{}"))
            named = [(_bare(key), _tensor(opened, key, with_values)) for key in opened.keys()]  # noqa: SIM118
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(f"{file} {_what_is_wrong(file)} ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} has a header whose '{CONFIG_KEY}' entry is not a table of parts")
    tensors = dict(named)
    if len(tensors) < len(named):
        raise CheckpointError(f"{file} holds tensors whose names differ only by a wrapper's prefix: save it unwrapped")
    return Contents(file, config, tensors, metadata, checked=with_values and sealed is not None)


def _tensor(opened: Any, key: str, with_values: bool) -> Tensor:
    if with_values:
        return opened.get_tensor(key).clone()  # a copy, since the tensor itself is a view of the mapped file
    return torch.empty(opened.get_slice(key).get_shape(), device="meta")


def _count(tensors: Mapping[str, Tensor]) -> str:
    return f"{sum(value.numel() for value in tensors.values()):,} parameters"


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


def _seal(digest: str) -> bytes:
    return f'"{DIGEST_KEY}":"{digest}"'.encode()


def _digest(file: Path, sealed: str) -> str:
    """SHA-256 of the file as it was before `sealed` was put in its header."""
    # Raw bytes, since JSON that is parsed and written again need not have the bytes that were hashed.
    with open(file, "rb") as opened:
        start = opened.read(8)
        header = start + opened.read(int.from_bytes(start, "little"))
        digest = hashlib.sha256(header.replace(_seal(sealed), _seal(NO_DIGEST), 1))
        return hashlib.file_digest(opened, lambda: digest).hexdigest()


def _what_is_wrong(file: Path) -> str:
    try:
        start = first_bytes(file)
    except OSError:
        return "cannot be read: check its permissions"
    if start == LFS_POINTER:
        return LFS_REMEDY
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return "is a pickle (torch.save), which can run code when it is loaded: convert it where you trust it"
    return "is not a whole safetensors file: take another copy"


def _bare(key: str) -> str:
    while (shorter := _WRAPPERS.sub(r"\1", key)) != key:
        key = shorter
    return key
