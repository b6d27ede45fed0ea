"""The stamp next to an artefact, `<file>.lineage.json`: the record of everything it was made from.

A stamp is written after its artefact, whole or not at all, and ends with a checksum of itself. A stamp that was
cut or altered counts as absent, so that the artefact is made again.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssdd.files import atomic_write
from ssdd.lineage.parameter_values import digest
from ssdd.texts import utf8

SUFFIX = ".lineage.json"
VERSION = 1  # of the format: a stamp of another version counts as absent, so a new one reruns everything


@dataclass(frozen=True)
class Identity:
    """Everything that a node's result follows from; equal identities make equal results.

    Attributes:
        function: `module:name` of the node's function.
        code: `module:name` -> hash of the definitions reached.
        parameters: the flat parameters that define the result, by value.
        inputs: dataset -> content hash (in memory: of its producer's identity).
        packages: distribution -> release.
        catalog: dataset -> its type and its arguments that are no location.
    """

    function: str
    code: dict[str, str]
    parameters: dict[str, Any]
    inputs: dict[str, str]
    packages: dict[str, str]
    catalog: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the whole identity."""
        return digest(asdict(self))

    @property
    def method(self) -> str:
        """SHA-256 of code and packages, which say how a result is made whatever it is made from."""
        return digest([self.function, self.code, self.packages])


@dataclass(frozen=True)
class Stamp:
    """The record of one artefact.

    Attributes:
        dataset: its name in the catalog.
        node: the node that made it.
        sha256: the hash of its content.
        identity: everything that it follows from.
        extends: flat parameters of which a higher value continues the result (`finetune.epochs`).
        about: for the reader: run, command, commit, machine, times, neutral parameters, all versions, input
            files.
    """

    dataset: str
    node: str
    sha256: str
    identity: Identity
    extends: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def stamp_path(artefact: Path) -> Path:
    """Returns the path of the stamp of an artefact (file or folder)."""
    return artefact.with_name(artefact.name + SUFFIX)


def write_stamp(artefact: Path, stamp: Stamp) -> None:
    """Writes the stamp next to its artefact.

    Raises:
        OSError: the disk is full or not writable; the previous stamp is untouched.
    """
    # Never in place: a stamp that is cut short would cost hours of training that its artefact still holds.
    with atomic_write(stamp_path(artefact)) as temporary:
        temporary.write_text(_text(asdict(stamp)), encoding="utf-8")


def read_stamp(artefact: Path) -> Stamp | None:
    """Returns the stamp of an artefact; None where there is no intact one."""
    try:
        text = stamp_path(artefact).read_text(encoding="utf-8")
        content = json.loads(text)
        content.pop("checksum")
        if content.pop("version") != VERSION:
            return None
        stamp = Stamp(**{**content, "identity": Identity(**content["identity"])})
        # Compared letter by letter instead of by checksum alone: an edit of layout or of the order of keys counts too.
        return stamp if _text(asdict(stamp)) == text else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _text(content: dict[str, Any]) -> str:
    content = {"version": VERSION, **content}
    content["checksum"] = digest(content)
    # `utf8` writes the bytes of a file name that is not UTF-8 as escapes of JSON, which read as the same name again.
    return utf8(json.dumps(content, indent=2, sort_keys=False, ensure_ascii=False)) + "\n"
