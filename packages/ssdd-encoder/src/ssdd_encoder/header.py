"""The header of a checkpoint: its networks' configurations, its tensors' names, shapes and types.

It can be read without PyTorch, whose import takes longer than most questions about a file. Git holds this file once;
the decoder package has a link.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open

from .files import LFS_POINTER, LFS_REMEDY, first_bytes
from .sources import CheckpointError

CONFIG_KEY = "ssdd"  # header entry: JSON of {part: configuration}
DIGEST_KEY = "ssdd_sha256"  # header entry: hash of the whole file, computed with this entry all zeros
NO_DIGEST = "0" * 64
FORMAT_KEY = "ssdd_format"  # header entry: version of this layout; files of the first releases lack it, and have 1
FORMAT = 1
PARTS = ("encoder", "decoder")  # the names that stand before the keys of a file with both networks
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_NAMES = {code: name for name, code in DTYPES.items()}
_WRAPPERS = re.compile(r"(^|\.)(?:module|_orig_mod|first_stage_model)\.")
# AttributeError: safetensors raises it for a dtype that this PyTorch does not have.
_UNREADABLE = (SafetensorError, OSError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError)
_Config = TypeVar("_Config")


@dataclass(frozen=True)
class Described:
    """A tensor of which only the header was read.

    Args:
        dtype: its type, by PyTorch's name (`float32`); the file's own code where PyTorch may have no such type.
        shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    def numel(self) -> int:
        """Number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """The header of a checkpoint file.

    Errors about a file come from the methods here: each package has its own `CheckpointError`, so a caller who passes
    one package's contents to the other package's network needs to know only one.

    Args:
        file: its path.
        config: configuration by part, from the header; empty for files not written by this project.
        tensors: by key, without the prefixes that DataParallel, torch.compile and latent diffusion leave.
        metadata: the other entries of the header.
        checked: whether the header has a hash of the file and the file matches it.
    """

    file: Path
    config: dict[str, Any]
    tensors: dict[str, Any]
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

    def select(self, part: str, own: tuple[str, ...], beside: tuple[str, ...] = ()) -> dict[str, Any]:
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

    def mismatch(self, tensors: Mapping[str, Any], *, asked: str, held: str) -> CheckpointError:
        """Makes the error for a file that holds another network than the one asked for."""
        return CheckpointError(f"this file holds {held} ({count(tensors)}); {asked} was asked for: {self.file}")

    def refusal(self, problem: str) -> CheckpointError:
        """Makes the error for this file, which is the subject of the sentence."""
        return CheckpointError(f"{self.file} {problem}")


def read(file: str | os.PathLike[str], check: bool = True, framework: str = "pt") -> Header:
    """Reads the header of a checkpoint; its tensors are `Described`.

    Args:
        file: its path.
        check: compare the file with the hash in its header, if there is one. That reads the whole file.
        framework: the library of arrays that safetensors imports, although none is made here: `pt`, or `np` (NumPy),
            whose import takes a twentieth of the time of PyTorch's.

    Raises:
        CheckpointError: the file is missing, is a pickle, is truncated or was altered.
    """
    file = Path(file)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}: check the path")
    with reading(file), safe_open(file, framework=framework) as opened:
        metadata = dict(opened.metadata() or {})
        sealed = metadata.pop(DIGEST_KEY, None)
        if check and sealed is not None and _digest(file, sealed) != sealed:
            raise CheckpointError(f"{file} is damaged: its content does not match its hash. Take another copy")
        if (layout := metadata.pop(FORMAT_KEY, "1")) not in map(str, range(1, FORMAT + 1)):
            raise CheckpointError(f"{file} has layout {layout[:20]!r}, expected {FORMAT} at most: update this code")
        config = json.loads(metadata.pop(CONFIG_KEY, "{}"))
        named = [(bare(key), _describe(opened.get_slice(key))) for key in opened.keys()]  # noqa: SIM118
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} has a header whose '{CONFIG_KEY}' entry is not a table of parts")
    tensors = dict(named)
    if len(tensors) < len(named):
        raise CheckpointError(f"{file} holds tensors whose names differ only by a wrapper's prefix: save it unwrapped")
    return Header(file, config, tensors, metadata, checked=check and sealed is not None)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turns the errors of safetensors and PyTorch about a file into one that says what the file is.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        yield
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        raise CheckpointError(f"{file} {_what_is_wrong(file)} ({error})") from error


def count(tensors: Mapping[str, Any]) -> str:
    """Returns the number of elements of all tensors, with its noun."""
    return f"{sum(value.numel() for value in tensors.values()):,} parameters"


def bare(key: str) -> str:
    """Returns a tensor's name without the prefixes of wrappers."""
    while (shorter := _WRAPPERS.sub(r"\1", key)) != key:
        key = shorter
    return key


def seal(digest: str) -> bytes:
    """Returns the header's entry of the hash, as it is written."""
    return f'"{DIGEST_KEY}":"{digest}"'.encode()


def _describe(stored: Any) -> Described:
    code = stored.get_dtype()
    return Described(_NAMES.get(code, code), tuple(stored.get_shape()))


def _digest(file: Path, sealed: str) -> str:
    """SHA-256 of the file as it was before `sealed` was put in its header."""
    # Raw bytes, since JSON that is parsed and written again need not have the bytes that were hashed.
    with open(file, "rb") as opened:
        start = opened.read(8)
        header = start + opened.read(int.from_bytes(start, "little"))
        digest = hashlib.sha256(header.replace(seal(sealed), seal(NO_DIGEST), 1))
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
