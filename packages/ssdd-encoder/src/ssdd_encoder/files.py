"""Files that appear whole or not at all, and their content hashes.

Git holds this file once. The decoder and metrics packages and the application link to it, so that each can be installed
without the others.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WINDOWS = os.name == "nt"
TEMPORARY_SUFFIX = ".partial"
LFS_POINTER = b"version https://git-lfs"  # how the text begins that Git leaves in place of a large file
LFS_REMEDY = "is a Git LFS pointer and not the file itself: fetch that with `git lfs pull`"

_unfinished: set[Path] = set()


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary file in the folder of `path`; on success it replaces `path`, on any failure it is removed.

    The data reaches the disk (fsync) before the name does: a power cut or a kill leaves either the previous
    file or the new one.

    Args:
        path: the final file; its folder is made when missing.

    Raises:
        OSError: the disk is full or not writable; the previous file is untouched.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, since a rename replaces a file in one step only within a file system. The name is cut because
    # the whole would be too long for a file whose own name has the longest length.
    handle, name = tempfile.mkstemp(
        prefix=f".{final.name[:40]}.", suffix=TEMPORARY_SUFFIX + final.suffix[-10:], dir=final.parent
    )
    os.close(handle)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner can read.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, final)
        _sync_folder(final.parent)
    except BaseException:  # an interrupt must not leave the temporary file either
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Removes the temporary files of all writers, for a process that is about to end without them."""
    for temporary in list(_unfinished):
        temporary.unlink(missing_ok=True)


def first_bytes(path: str | os.PathLike[str], count: int = len(LFS_POINTER)) -> bytes:
    """Returns the beginning of a file."""
    with open(path, "rb") as file:
        return file.read(count)


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file's content as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if WINDOWS:  # Windows opens no folder, and writes names through by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
