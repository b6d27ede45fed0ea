"""The stamp beside an artefact: `<file>.lineage.json`, what made it.

A stamp is written after its artefact, whole or not at all, and ends with a checksum of itself: one that was
cut or altered counts as absent, so that the artefact is made again.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssdd.files import atomic_write
from ssdd.lineage.parameter_values import digest

SUFFIX = ".lineage.json"
VERSION = 1


@dataclass(frozen=True)
class Identity:
    """What a node's result follows from; equal identities make equal results.

    Attributes:
        function: `module:name` of the node's function.
        code: `module:name` -> hash of the definitions reached.
        parameters: flat parameters that define the result, by value.
        inputs: dataset -> content hash (in memory: of its producer's identity).
        packages: distribution -> release.
        catalog: dataset -> its type and arguments that are no path.
    """

    function: str
    code: dict[str, str]
    parameters: dict[str, Any]
    inputs: dict[str, str]
    packages: dict[str, str]
    catalog: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return digest(asdict(self))


@dataclass(frozen=True)
class Stamp:
    """What made one artefact.

    Attributes:
        dataset: its name in the catalog.
        node: the node that made it.
        sha256: its content's hash.
        identity: what the result follows from.
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
    """Returns where the stamp of an artefact (file or folder) lies."""
    return artefact.with_name(artefact.name + SUFFIX)


def write_stamp(artefact: Path, stamp: Stamp) -> None:
    """Writes the stamp beside its artefact.

    Raises:
        OSError: the disk is full or not writable; the previous stamp is untouched.
    """
    with atomic_write(stamp_path(artefact)) as temporary:
        temporary.write_text(_text(asdict(stamp)), encoding="utf-8")


def read_stamp(artefact: Path) -> Stamp | None:
    """Returns the stamp of an artefact; None where there is none, or none that is intact."""
    try:
        text = stamp_path(artefact).read_text(encoding="utf-8")
        content = json.loads(text)
        content.pop("checksum")
        if content.pop("version") != VERSION:
            return None
        stamp = Stamp(**{**content, "identity": Identity(**content["identity"])})
        return stamp if _text(asdict(stamp)) == text else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _text(content: dict[str, Any]) -> str:
    content = {"version": VERSION, **content}
    content["checksum"] = digest(content)
    return json.dumps(content, indent=2, sort_keys=False, ensure_ascii=False) + "\n"
