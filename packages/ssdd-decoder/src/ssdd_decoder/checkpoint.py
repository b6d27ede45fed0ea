"""Checkpoints: one safetensors file with its configuration in the header. No pickle is ever read.

The encoder and the decoder package each carry this file, letter for letter, so that either can be installed alone.
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

from .files import atomic_write
from .sources import CheckpointError

CONFIG_KEY = "ssdd"  # header entry: JSON of {part: configuration}
DIGEST_KEY = "ssdd_sha256"  # header entry: hash of the whole file, computed with this entry all zeros
NO_DIGEST = "0" * 64
PARTS = ("encoder", "decoder")
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_DECODER_ONLY = ("ada_ctx_proj.", "time_embedding.", "up_blocks.")
_WRAPPERS = re.compile(r"(^|\.)(?:module|_orig_mod|first_stage_model)\.")
_DAMAGED = (SafetensorError, OSError, ValueError, TypeError, RuntimeError, OverflowError, RecursionError)
_UNREADABLE = (*_DAMAGED, AttributeError)  # the last one: of a dtype that this PyTorch does not have
_Config = TypeVar("_Config")


@dataclass(frozen=True)
class Contents:
    """What a checkpoint file holds.

    Args:
        file: where it was read.
        config: configuration by part, from the header; empty for files not written by this project.
        tensors: by key, without the prefixes that DataParallel, torch.compile and latent diffusion leave.
        metadata: the other entries of the header.
        checked: whether the header has a hash of the file; if so, it held.
    """

    file: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    checked: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Which of `encoder` and `decoder` it holds, by the keys' prefixes; without prefixes it is one of them."""
        prefixed = tuple(part for part in PARTS if any(key.startswith(f"{part}.") for key in self.tensors))
        if prefixed:
            return prefixed
        known = tuple(part for part in PARTS if part in self.config)
        if len(known) == 1:
            return known
        return ("decoder",) if any(key.startswith(_DECODER_ONLY) for key in self.tensors) else ("encoder",)

    def select(self, part: str) -> dict[str, Tensor]:
        """Returns the tensors of `encoder` or `decoder`, without that prefix.

        Autoencoders of latent diffusion and of diffusers keep a 1x1 `quant_conv` outside the encoder: it belongs to
        it, and what else such a file holds is left aside.

        Raises:
            CheckpointError: the file holds only the other part, or tensors that belong to neither.
        """
        if part not in self.parts:
            raise CheckpointError(f"{self.file} holds {' and '.join(self.parts)}, no {part}: give a file with one")
        prefixes = tuple(f"{p}." for p in PARTS)
        if not any(key.startswith(prefixes) for key in self.tensors):
            return dict(self.tensors)
        own = {key.removeprefix(f"{part}."): t for key, t in self.tensors.items() if key.startswith(f"{part}.")}
        outside = {key: tensor for key, tensor in self.tensors.items() if not key.startswith(prefixes)}
        quant_conv = {key: tensor for key, tensor in outside.items() if key.startswith("quant_conv.")}
        if outside and not quant_conv:
            raise CheckpointError(
                f"{self.file} holds {len(outside)} tensors that belong to neither encoder nor decoder, such as "
                f"{min(outside)[:100]}: take another copy"
            )
        return own | quant_conv if part == "encoder" else own


def write(
    file: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> Path:
    """Writes a checkpoint whole or not at all.

    The safetensors library reads these files; its writer is not used, for it needs numpy, which torch does not.

    Args:
        file: its name, ending in `.safetensors`; what is there is replaced only by a complete file.
        tensors: by key.
        config: configuration by part (JSON-able).
        metadata: further header entries.

    Raises:
        OSError: the disk is full or not writable; the previous file is untouched.
        ValueError: a tensor has a dtype that such files do not hold.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))  # keeps data aligned
    entries = {**(metadata or {}), CONFIG_KEY: json.dumps(config, sort_keys=True), DIGEST_KEY: NO_DIGEST}
    header = _header(ordered, entries)
    digest = hashlib.sha256(header)
    with atomic_write(file) as temporary, open(temporary, "wb") as opened:
        opened.write(header)
        for tensor in ordered.values():
            here = tensor.detach().cpu().contiguous()
            content = (ctypes.c_char * (here.numel() * here.element_size())).from_address(here.data_ptr())
            digest.update(content)
            opened.write(content)
        opened.seek(header.index(_seal(NO_DIGEST)))
        opened.write(_seal(digest.hexdigest()))
    return file


def read(file: str | os.PathLike[str]) -> Contents:
    """Reads a checkpoint into memory, and checks its hash if its header has one.

    Raises:
        CheckpointError: the file is not there, is a pickle, is truncated or was altered.
    """
    file = Path(file)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}: check the path")
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            sealed = metadata.pop(DIGEST_KEY, None)
            if sealed is not None and _digest(file, sealed) != sealed:
                raise CheckpointError(f"{file} is damaged: its content does not match its hash. Take another copy")
            config = json.loads(metadata.pop(CONFIG_KEY, "{}"))
            named = [(_bare(key), opened.get_tensor(key).clone()) for key in opened.keys()]  # noqa: SIM118
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(f"{file} {_what_is_wrong(file)} ({error})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} has a header whose '{CONFIG_KEY}' entry is not a table of parts")
    tensors = dict(named)
    if len(tensors) < len(named):
        raise CheckpointError(f"{file} holds tensors whose names differ only by a wrapper's prefix: save it unwrapped")
    return Contents(file, config, tensors, metadata, checked=sealed is not None)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], file: Path, *, asked: str, held: str | None) -> None:
    """Gives a module (which may be on the meta device) a file's tensors, all of them or none.

    Tensors of several dtypes are brought to the one that holds them all.

    Args:
        asked: describes the module, for the message.
        held: describes what the file holds, where that is known.

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
        raise mismatch(tensors, file, asked=asked, held=held)
    problems = [
        *(f"{key} is missing" for key in wanted if key not in found),
        *(f"{key[:100]} is left over" for key in found if key not in wanted),
        *(f"{key} is {found[key]}, not {wanted[key]}" for key in wanted if found.get(key, wanted[key]) != wanted[key]),
        *(f"{key[:100]} is {tensors[key].dtype}, not floating point of 16 to 64 bits" for key in odd),
    ]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    count = sum(value.numel() for value in tensors.values())
    raise CheckpointError(
        f"{file} ({len(found)} tensors, {count:,} parameters) does not fit {asked}: {'; '.join(problems[:3])}{more}"
    )


def mismatch(tensors: Mapping[str, Tensor], file: Path, *, asked: str, held: str) -> CheckpointError:
    """The error of a file that holds another network than the one asked for."""
    count = sum(value.numel() for value in tensors.values())
    return CheckpointError(f"this file holds {held} ({count:,} parameters); {asked} was asked for: {file}")


def parse_config(kind: type[_Config], values: Any, file: Path) -> _Config:
    """Makes a configuration from a header's JSON.

    Raises:
        CheckpointError: a field is unknown, or a value is not allowed.
    """
    try:
        if not isinstance(values, dict):
            raise ValueError(f"expected a table of fields, got {type(values).__name__}")
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields {unknown[:5]}")
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} has a header that this version cannot read: {error}") from error


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
    with open(file, "rb") as opened:
        start = opened.read(8)
        header = start + opened.read(int.from_bytes(start, "little"))
        digest = hashlib.sha256(header.replace(_seal(sealed), _seal(NO_DIGEST), 1))
        return hashlib.file_digest(opened, lambda: digest).hexdigest()


def _what_is_wrong(file: Path) -> str:
    try:
        with open(file, "rb") as opened:
            magic = opened.read(4)
    except OSError:
        return "cannot be read: check its permissions"
    if magic == b"PK\x03\x04" or magic[:1] == b"\x80":
        return "is a pickle (torch.save), which can run code when it is loaded: convert it where you trust it"
    return "is not a whole safetensors file: take another copy"


def _bare(key: str) -> str:
    while (shorter := _WRAPPERS.sub(r"\1", key)) != key:
        key = shorter
    return key
