"""What a node can ask about itself while it runs: its fingerprint, and a folder for state that outlives it.

A node that trains for hours:

    def finetune(pretrained: Path, index: DataFrame, finetune: Finetune) -> tuple[Path, list]:
        from ssdd.lineage import state_folder
        folder = state_folder()  # what lies in it is this very stage's, to be continued
        history = train(..., folder, epochs=finetune.epochs)  # resumes if there is a state, else starts anew
        export(folder / "finetuned.safetensors")  # the catalog moves it to its place
        return folder / "finetuned.safetensors", history

The folder is `data/<run_name>/state/<node>/`. It belongs to the node's fingerprint, which leaves out
`extends` parameters (`epochs`): when anything else has changed, an `extends` value was lowered, or
`--force` was given, it is emptied before the node sees it. So the engine need compare nothing: an empty
folder means start, a state in it means continue, be it interrupted, or finished and now asked for more
epochs. It stays after the stage has finished, so that raising `epochs` later continues it.

Outside a Kedro run there is no current node, and the engine is given a folder and a fingerprint by its
caller.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssdd.files import atomic_write
from ssdd.lineage.parameter_values import only_raised

MARKER = "lineage.json"
StateKind = Literal["none", "same", "raised", "other"]


@dataclass
class Current:
    """The node that runs now.

    Attributes:
        node: its name.
        run_name: the run it belongs to.
        folder: `data/<run_name>`.
        fingerprint: SHA-256 of what its result follows from, `extends` parameters left out.
        extends: those parameters, flat (`finetune.epochs`).
        anew: discard any state, on `--force`.
        joined: this process only takes part (a rank other than 0 of torchrun); the state is rank 0's.
    """

    node: str
    run_name: str
    folder: Path
    fingerprint: str
    extends: dict[str, Any] = field(default_factory=dict)
    anew: bool = False
    joined: bool = False


_current: ContextVar[Current | None] = ContextVar("current_node", default=None)


def current() -> Current:
    """Returns the node that runs now.

    Raises:
        RuntimeError: no node runs in this process; give the engine its folder and fingerprint explicitly.
    """
    node = _current.get()
    if node is None:
        raise RuntimeError("no node runs in this process: give the state folder and the fingerprint explicitly")
    return node


def current_fingerprint() -> str:
    """Returns the fingerprint of the node that runs now (see `current`)."""
    return current().fingerprint


def state_folder() -> Path:
    """Returns the current node's folder for resume state, empty unless what it holds is to be continued.

    Raises:
        OSError: the disk is full or not writable.
    """
    node = current()
    folder = state_path(node.folder, node.node)
    if node.joined:
        return folder
    kind = state_kind(folder, node.fingerprint, node.extends)
    if node.anew or kind == "other":
        shutil.rmtree(folder, ignore_errors=True)
        node.anew = False
    if kind != "same" or not (folder / MARKER).exists():
        with atomic_write(folder / MARKER) as temporary:
            temporary.write_text(json.dumps({"fingerprint": node.fingerprint, "extends": node.extends}))
    return folder


def state_path(run_folder: Path, node: str) -> Path:
    """Returns where the resume state of a node lies."""
    return run_folder / "state" / node


def state_kind(folder: Path, fingerprint: str, extends: dict[str, Any]) -> StateKind:
    """Tells whose state lies in a folder.

    Returns:
        `none`: there is none; `same`: this fingerprint's, for the same `extends` values; `raised`: this
        fingerprint's, for lower ones; `other`: anything else, of no use.
    """
    if not folder.exists():
        return "none"
    try:
        if [item.name for item in folder.iterdir()] == [MARKER]:  # ended before it saved anything
            return "none"
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if marker["fingerprint"] != fingerprint:
            return "other"
        if marker["extends"] == extends:
            return "same"
        return "raised" if only_raised(marker["extends"], extends) else "other"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "other"


@contextmanager
def running(node: Current) -> Iterator[None]:
    """Makes `node` the current one."""
    token = _current.set(node)
    try:
        yield
    finally:
        _current.reset(token)
