"""Finds checkpoints: in a file, in a folder that holds one, or in a repository of the Hugging Face hub.

Git holds this file once. The decoder package links to it, so that either package can be installed alone.
"""

import os
import re
from pathlib import Path
from typing import Any

SUFFIX = ".safetensors"
OTHER_NAMES = ("ssdd.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors")
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only")  # of huggingface_hub, under its own names
HUB_ID = r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}"


class CheckpointError(ValueError):
    """A checkpoint is missing or damaged, or holds another network than the one asked for."""


def destination(path: str | os.PathLike[str], name: str) -> Path:
    """Returns the file to write: `path` itself if it ends in `.safetensors`, else `path / name`."""
    path = Path(os.path.expanduser(path))
    return path if path.suffix == SUFFIX else path / name


def resolve(source: str | os.PathLike[str], name: str, **hub: Any) -> Path:
    """Finds a checkpoint.

    Args:
        source: a file; a folder with `name`, with a file of another usual name or with a single safetensors file;
            or a hub id `owner/name`, read from the hub's cache where the hub cannot be reached.
        name: the usual name of such a file.
        hub: for a hub id, `HUB_OPTIONS`: `revision` (branch, tag or commit), `cache_dir`, `token`, `local_files_only`.

    Raises:
        CheckpointError: there is none.
        TypeError: an option is none of these.
    """
    if unknown := sorted(set(hub) - set(HUB_OPTIONS)):
        raise TypeError(f"expected options among {', '.join(HUB_OPTIONS)}, got {', '.join(unknown)}")
    path = Path(os.path.expanduser(source))  # a shell leaves `~` as it is behind `--model=` or in quotes
    # The disk before the hub: a local folder `owner/name` must not send a request.
    try:
        if path.is_dir():
            return _in_folder(path, name)
        if path.exists():
            return path
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise CheckpointError(f"{str(source)[:200]!r} cannot be looked up: {error.strerror}") from error
    if path.suffix == SUFFIX or not re.fullmatch(HUB_ID, str(source)):
        raise CheckpointError(f"there is no file or folder {str(source)[:200]!r}: check the path")
    return _from_hub(str(source), name, **hub)


def _in_folder(folder: Path, name: str) -> Path:
    for usual in (name, *OTHER_NAMES):
        if (folder / usual).is_file():
            return folder / usual
    # Of several files with other names, any choice would be a guess.
    files = sorted(file for file in folder.glob(f"*{SUFFIX}") if file.is_file())
    if len(files) == 1:
        return files[0]
    held = f"holds {', '.join(file.name for file in files[:5])}" if files else "holds no safetensors file"
    raise CheckpointError(f"{folder} {held}, and no {name}: name the file to load")


def _from_hub(repository: str, name: str, **options: Any) -> Path:
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise CheckpointError(
            f"there is no file or folder {repository}; to load it from the Hugging Face hub, install huggingface-hub"
        ) from error
    reason: Exception | None = None
    for candidate in (name, *OTHER_NAMES):
        try:
            return Path(hf_hub_download(repository, candidate, **options))
        except (LocalEntryNotFoundError, EntryNotFoundError) as error:  # not in the cache, or not in the repository
            reason = error
        except Exception as error:  # no such repository, no permission, or an error of the client's transport
            reason = error
            break  # another name would fail in the same way, perhaps after another long wait
    raise CheckpointError(
        f"there is no file or folder {repository}, and no checkpoint of that name in the hub's cache or on the hub "
        f"({type(reason).__name__}): give a local safetensors file"
    ) from reason
