"""The header of a file of latents, read without PyTorch: what made the latents, and the sizes of their images."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ssdd.files import LFS_POINTER, LFS_REMEDY, first_bytes

HEADER = "ssdd_latents"
FORMAT = 1
SHARD_HEADER = "ssdd_latents_shard"  # entry of the header of a shard: JSON
MANIFEST = "manifest.json"  # beside shards


@dataclass(frozen=True, kw_only=True)
class LatentHeader:
    """The facts that a reader of latents needs.

    Args:
        downscale: F.
        latent_channels: C.
        sizes: image name -> [height, width] in pixels, before padding.
        model: name and SHA-256 of the encoder's file.
        encoder: the encoder's configuration.
        precision: number format of the computation.
        version: version of ssdd.
        attention_window: side of the attention's windows, if asked for; None confines that of large images alone.
        format: version of the layout; files of the first releases lack it, and have 1.
    """

    downscale: int
    latent_channels: int
    sizes: dict[str, list[int]]
    model: dict[str, str]
    encoder: dict[str, Any]
    precision: str
    version: str
    attention_window: int | None = None
    format: int = FORMAT


class NewerLayout(ValueError):
    """A file of latents was written by a later version."""


def read_header(path: str | os.PathLike[str]) -> LatentHeader | None:
    """Reads the header of a file of latents; returns None for any other file, even a damaged one.

    A caller that accepts several kinds of files passes the others on, to the reader that can explain their damage.

    Raises:
        ValueError: the header is of another version.
        OSError: the file cannot be read.
    """
    text = _entry(path, HEADER)
    return None if text is None else parse_header(text, Path(path))


def is_sharded(path: Path) -> bool:
    """Whether a path is a folder of latents, or one of its shards."""
    if path.is_dir():
        return (path / MANIFEST).is_file()
    try:
        return _entry(path, SHARD_HEADER) is not None
    except OSError:
        return False


def parse_header(text: str, path: Path) -> LatentHeader:
    """Makes the header of its JSON.

    Args:
        text: the JSON.
        path: of the file, for messages.

    Raises:
        ValueError: it is of another version, or damaged.
    """
    try:
        content = json.loads(text)
        if isinstance(content, dict) and (layout := content.get("format", 1)) not in range(1, FORMAT + 1):
            raise NewerLayout(f"{path} has layout {str(layout)[:20]}, expected at most {FORMAT}: update ssdd")
        return LatentHeader(**content)
    except NewerLayout:
        raise
    except (ValueError, TypeError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    """Makes the error for a file that does not read as latents."""
    if path.is_file() and first_bytes(path) == LFS_POINTER:
        return ValueError(f"{path} {LFS_REMEDY}")
    return ValueError(f"{path} is not a whole file of latents ({error}): encode the images again")


def _entry(path: str | os.PathLike[str], name: str) -> str | None:
    """Reads one entry of a header; None where the file has no such entry, or is no safetensors file."""
    try:
        with safe_open(path, framework="np") as file:  # another one would import torch
            return (file.metadata() or {}).get(name)
    except SafetensorError:
        return None
