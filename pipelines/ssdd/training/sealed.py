"""Sealed files: safetensors files whose name ends with the SHA-256 of their content.

A truncated, altered or exchanged file no longer fits its name, so it is noticed before it is used. Resume states and
teacher targets are such files: `<kind>-<numbers>-<32 hexadecimal digits>.safetensors`.
"""

import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssdd.files import atomic_write, sha256_file
from ssdd.runs import LEFTOVERS

log = logging.getLogger(__name__)

DIGITS = 32  # of the hash: half of it keeps names readable, and no accident will hit the same 128 bits
HEADER = "ssdd"


class SealedStore:
    """The sealed files of one kind in one folder.

    Args:
        folder: may hold other files too.
        kind: first part of the names.
        fingerprint: of everything that decides the content; files of other fingerprints are not this store's.
    """

    def __init__(self, folder: str | os.PathLike[str], kind: str, fingerprint: str):
        self.folder, self.kind, self.fingerprint = Path(folder), kind, fingerprint
        self._name = re.compile(rf"{kind}-(\d+(?:-\d+)*)-([0-9a-f]{{{DIGITS}}})\.safetensors")

    def write(self, numbers: str, tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> Path:
        """Writes a file whole or not at all.

        Args:
            numbers: middle part of the name, digits joined by hyphens.
            tensors: by name, contiguous, on the CPU.
            document: whatever else the file holds, ready for JSON.

        Raises:
            OSError: the disk is full or not writable; earlier files are intact.
        """
        # The name needs the hash of the written bytes, so the file has a preliminary name first. It holds the numbers
        # because several processes write into one folder; `sweep` removes it after a kill.
        unnamed = self.folder / f"{self.kind}-unnamed.{numbers}.safetensors"
        with atomic_write(unnamed) as path:
            write_safetensors(tensors, path, {HEADER: json.dumps({"fingerprint": self.fingerprint, **document})})
        final = self.folder / f"{self.kind}-{numbers}-{sha256_file(unnamed)[:DIGITS]}.safetensors"
        os.replace(unnamed, final)
        return final

    def paths(self) -> list[Path]:
        """Returns all finished files of this kind, sound or not, of any fingerprint, in the order of their names."""
        return sorted(path for path in self.folder.glob(f"{self.kind}-[0-9]*.safetensors") if path.is_file())

    def numbers(self, path: Path) -> tuple[int, ...]:
        """Returns the numbers in a finished file's name; none if it is no name of this kind."""
        name = self._name.fullmatch(path.name)
        return tuple(int(number) for number in name[1].split("-")) if name else ()

    def documents(self, newest_first: bool = False, check: bool = True) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yields the undamaged files of this fingerprint, with their documents, and skips damaged ones.

        Args:
            newest_first: from the highest numbers down.
            check: compare content and name. Without it the names are trusted: right after another process of the same
                run has checked, since hashing reads every byte.
        """
        for path in sorted(self.paths(), reverse=newest_first):
            name = self._name.fullmatch(path.name)
            if name is None or (check and sha256_file(path)[:DIGITS] != name[2]):
                log.warning("%s is damaged and is left aside", path)
                continue
            document = self.document(path)
            if document["fingerprint"] == self.fingerprint:
                yield path, document

    def document(self, path: Path) -> dict[str, Any]:
        """Returns what an undamaged file holds besides tensors."""
        with safe_open(path, framework="pt") as file:
            document: dict[str, Any] = json.loads(file.metadata()[HEADER])
        return document

    def sweep(self, unwanted: Collection[Path] = ()) -> None:
        """Removes half-written files of killed runs, and the unwanted ones; the process that writes calls it first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        leftovers = (*LEFTOVERS, f"{self.kind}-unnamed[.-]*")  # states of earlier versions had no numbers here
        for path in [*unwanted, *(path for pattern in leftovers for path in self.folder.glob(pattern))]:
            path.unlink(missing_ok=True)


def write_safetensors(tensors: Mapping[str, Tensor], path: Path, header: Mapping[str, str]) -> None:
    """Writes a safetensors file; a full disk is an OSError like everywhere else.

    Args:
        tensors: by name, contiguous, on the CPU.
        path: the file.
        header: give one entry: safetensors writes several in no fixed order, and equal content must be equal bytes.
    """
    try:
        save_file(dict(tensors), path, dict(header))
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{path} could not be written: {error}") from error
