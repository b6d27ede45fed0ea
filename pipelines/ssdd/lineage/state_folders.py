"""The folder of a node's resume state, `data/<run_name>/state/<node>/`, which outlives the node.

A node that trains for hours:

    def finetune(pretrained: Path, index: DataFrame, finetune: Finetune) -> tuple[Path, list]:
        from ssdd.lineage import state_folder
        folder = state_folder()  # empty, or with the state of this very stage
        history = train(..., folder, epochs=finetune.epochs)  # resumes from a state if one is there
        export(folder / "finetuned.safetensors")  # the catalog moves it to its place
        return folder / "finetuned.safetensors", history

The folder belongs to the node's fingerprint, which leaves out `extends` parameters (`epochs`). When anything
else has changed, when an `extends` value was lowered, or on `--force`, the folder is emptied before the node
runs. The training code therefore compares nothing: with an empty folder it starts, and with a state in the
folder it continues. The folder stays after the stage has finished, so that a higher `epochs` later continues it.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from ssdd.files import atomic_write
from ssdd.lineage.parameter_values import only_raised
from ssdd.lineage.running_node import running_node

MARKER = "lineage.json"
StateKind = Literal["none", "same", "raised", "other"]


def state_folder() -> Path:
    """Returns the running node's folder for resume state, empty unless its state is to be continued.

    Raises:
        RuntimeError: no node runs in this process.
        OSError: the disk is full or not writable.
    """
    node = running_node()
    folder = state_path(node.run_folder, node.node)
    if node.joined:
        return folder  # rank 0 has prepared it; two processes that empty one folder would lose a state
    kind = state_kind(folder, node.fingerprint, node.extends)
    if node.discard_state or kind == "other":
        shutil.rmtree(folder, ignore_errors=True)
        node.discard_state = False  # a second call inside this node must keep what the node has saved since
    if kind != "same" or not (folder / MARKER).exists():
        # The marker comes before any state: a state without a marker would be taken for another stage's.
        with atomic_write(folder / MARKER) as temporary:
            temporary.write_text(json.dumps({"fingerprint": node.fingerprint, "extends": node.extends}))
    return folder


def state_path(run_folder: Path, node: str) -> Path:
    """Returns the folder of a node's resume state."""
    return run_folder / "state" / node


def state_kind(folder: Path, fingerprint: str, extends: dict[str, Any]) -> StateKind:
    """Compares the state in a folder with the node that would continue it.

    Returns:
        `none`: there is no state; `same`: a state of this fingerprint and the same `extends` values; `raised`: of
        this fingerprint and lower values; `other`: anything else, of no use.
    """
    if not folder.exists():
        return "none"
    try:
        if [item.name for item in folder.iterdir()] == [MARKER]:  # the node ended before it saved anything
            return "none"
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if marker["fingerprint"] != fingerprint:
            return "other"
        if marker["extends"] == extends:
            return "same"
        return "raised" if only_raised(marker["extends"], extends) else "other"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A marker that is damaged proves nothing, and training on from an unknown state would be silently wrong.
        return "other"
