"""Checkpoints: one safetensors file with its configuration in the header. No pickle is ever read.

The encoder and the decoder package each carry this file, letter for letter, so that either can be installed alone.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import atomic_write

CONFIG_KEY = "ssdd"  # header entry: JSON of {part: configuration}
DIGEST_KEY = "sha256"  # header entry: hash of the whole file, computed with this entry all zeros
NO_DIGEST = "0" * 64
PARTS = ("encoder", "decoder")
HUB_NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")
_WRAPPERS = re.compile(r"(^|\.)(?:module|_orig_mod|first_stage_model)(?=\.)\.?")
_Config = TypeVar("_Config")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or holds something other than what was asked for."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint file holds.

    Args:
        file: where it was read.
        config: configuration by part, from the header; empty for files not written by this project.
        tensors: by key, without the prefixes that DataParallel, torch.compile and latent diffusion leave.
        metadata: the other entries of the header.
    """

    file: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def select(self, part: str) -> dict[str, Tensor]:
        """Returns the tensors of `encoder` or `decoder` without that prefix; a file without prefixes is one part.

        The 1x1 `quant_conv` that some layouts keep outside the encoder belongs to it.

        Raises:
            CheckpointError: the file holds only the other part.
        """
        if not any(key.startswith(tuple(f"{p}." for p in PARTS)) for key in self.tensors):
            return dict(self.tensors)
        own = {key.removeprefix(f"{part}."): t for key, t in self.tensors.items() if key.startswith(f"{part}.")}
        if not own:
            raise CheckpointError(f"{self.file} holds no {part} (no key starts with '{part}.')")
        if part == "encoder":
            own |= {key: t for key, t in self.tensors.items() if key.startswith("quant_conv.")}
        return own


def write(
    file: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes a checkpoint whole or not at all.

    Args:
        file: its name, ending in `.safetensors`; what is there is replaced only by a complete file.
        tensors: by key.
        config: configuration by part (JSON-able).
        metadata: further header entries.

    Raises:
        OSError: the disk is full or not writable; the previous file is untouched.
    """
    header = {**(metadata or {}), CONFIG_KEY: json.dumps(config, sort_keys=True), DIGEST_KEY: NO_DIGEST}
    plain = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with atomic_write(file) as temporary:
        try:
            save_file(plain, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(f"{file} could not be written: {error}") from error
        _seal(temporary)
    return file


def read(file: str | os.PathLike[str]) -> Contents:
    """Reads a checkpoint into memory, and checks its hash if its header has one.

    Raises:
        CheckpointError: the file is not there, is a pickle, is truncated or was altered.
    """
    file = Path(file)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint at {file}")
    with open(file, "rb") as start:
        magic = start.read(8)
    if magic[:4] == b"PK\x03\x04" or magic[:1] == b"\x80":
        raise CheckpointError(
            f"{file} is a pickle (torch.save), which can run code when it is loaded: convert it to safetensors "
            "where you trust it"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            if DIGEST_KEY in metadata and _digest(file, metadata[DIGEST_KEY]) != metadata[DIGEST_KEY]:
                raise CheckpointError(f"{file} is damaged: its content does not match its hash. Take another copy")
            tensors = {_bare(key): opened.get_tensor(key).clone() for key in opened.keys()}  # noqa: SIM118
        config = json.loads(metadata.pop(CONFIG_KEY, "{}"))
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} is not a whole safetensors file ({error}): take another copy") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} has a header whose '{CONFIG_KEY}' entry is not a table of parts")
    return Contents(file, config, tensors, metadata)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], file: Path, *, asked: str, held: str | None) -> None:
    """Gives a module (which may be on the meta device) a file's tensors, all of them or none.

    Args:
        asked: describes the module, for the message.
        held: describes what the file holds, where that is known.

    Raises:
        CheckpointError: a key is missing or left over, or a shape or dtype differs.
    """
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    kinds = {key for key, value in tensors.items() if not value.is_floating_point()}
    if wanted == found and not kinds:
        module.load_state_dict(dict(tensors), strict=True, assign=True)
        module.requires_grad_(True)
        return
    if held and held != asked:
        raise CheckpointError(f"this file holds {held}; {asked.split(' (')[0]} was asked for: {file}")
    problems = [
        *(f"{key} is missing" for key in wanted if key not in found),
        *(f"{key} is left over" for key in found if key not in wanted),
        *(f"{key} is {found[key]}, not {wanted[key]}" for key in wanted if found.get(key, wanted[key]) != wanted[key]),
        *(f"{key} is not floating point" for key in sorted(kinds)),
    ]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    count = sum(value.numel() for value in tensors.values())
    raise CheckpointError(
        f"{file} ({len(found)} tensors, {count:,} parameters) does not fit {asked}: {'; '.join(problems[:3])}{more}"
    )


def parse_config(kind: type[_Config], values: Any, file: Path) -> _Config:
    """Makes a configuration from a header's JSON.

    Raises:
        CheckpointError: a field is unknown, or a value is not allowed.
    """
    try:
        known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown fields {unknown}")
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{file} has a header that this version cannot read: {error}") from error


def destination(path: str | os.PathLike[str], name: str) -> Path:
    """The file to write: `path` itself if it ends in `.safetensors`, else `path / name`."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / name


def resolve(source: str | os.PathLike[str], name: str) -> Path:
    """Finds a checkpoint: a file, a folder with `name` (or one single safetensors file), or a hub id `owner/name`.

    Raises:
        CheckpointError: nothing is found there.
    """
    path = Path(source)
    if path.is_dir():
        files = [path / name] if (path / name).is_file() else sorted(path.glob("*.safetensors"))
        if len(files) == 1:
            return files[0]
        held = f"holds {', '.join(f.name for f in files)}" if files else "holds no safetensors file"
        raise CheckpointError(f"{path} {held}: name the file to load")
    if path.exists() or not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(source)) or path.suffix == ".safetensors":
        return path
    return _from_hub(str(source), name)


def _from_hub(repository: str, name: str) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"there is no file or folder {repository}; to load it from the Hugging Face hub, install huggingface-hub"
        ) from error
    reason: Exception | None = None
    for candidate in (name, *HUB_NAMES):
        try:
            return Path(hf_hub_download(repository, candidate))
        except LocalEntryNotFoundError as error:  # neither in the cache nor reachable
            reason = error
        except EntryNotFoundError as error:  # the hub answered: no such file
            reason = error
        except Exception as error:  # the hub's client raises its transport's errors too
            reason = error
            break
    raise CheckpointError(
        f"there is no file or folder {repository}, and no checkpoint of that name in the hub's cache or on the hub "
        f"({type(reason).__name__}): give a local safetensors file"
    ) from reason


def _bare(key: str) -> str:
    while (shorter := _WRAPPERS.sub(r"\1", key)) != key:
        key = shorter
    return key


def _header_length(file: Path) -> int:
    with open(file, "rb") as opened:
        return 8 + int.from_bytes(opened.read(8), "little")


def _digest(file: Path, sealed: str) -> str:
    """SHA-256 of the file as it was before `sealed` was put in its header."""
    length = _header_length(file)
    with open(file, "rb") as opened:
        header = opened.read(length).replace(sealed.encode(), NO_DIGEST.encode(), 1)
        digest = hashlib.sha256(header)
        return hashlib.file_digest(opened, lambda: digest).hexdigest()


def _seal(file: Path) -> None:
    digest = _digest(file, NO_DIGEST)
    with open(file, "rb+") as opened:
        header = opened.read(_header_length(file))
        opened.seek(header.index(NO_DIGEST.encode()))
        opened.write(digest.encode())
