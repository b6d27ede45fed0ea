"""The node that runs now in this process: its name, run and fingerprint, for the code inside the node.

Outside a Kedro run there is no running node; functions that train then take a folder and a fingerprint from
their caller.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class RunningNode:
    """The node that runs now.

    Attributes:
        node: its name.
        run_name: the run it belongs to.
        run_folder: `data/<run_name>`.
        fingerprint: SHA-256 of everything its result follows from, `extends` parameters left out.
        method: SHA-256 of its code and packages alone.
        extends: those parameters, flat (`finetune.epochs`).
        discard_state: begin with an empty state folder, on `--force`; False once that was done.
        joined: this process only takes part (a rank other than 0 of torchrun); the state belongs to rank 0.
    """

    node: str
    run_name: str
    run_folder: Path
    fingerprint: str
    method: str = ""
    extends: dict[str, Any] = field(default_factory=dict)
    discard_state: bool = False
    joined: bool = False


# A context variable and not a module global: nodes may run in threads of one process, each with its own node.
_running: ContextVar[RunningNode | None] = ContextVar("running_node", default=None)


def running_node() -> RunningNode:
    """Returns the node that runs now.

    Raises:
        RuntimeError: no node runs in this process; pass the state folder and the fingerprint explicitly.
    """
    node = _running.get()
    if node is None:
        raise RuntimeError("no node runs in this process: give the state folder and the fingerprint explicitly")
    return node


def current_fingerprint() -> str:
    """Returns the fingerprint of the node that runs now (see `running_node`)."""
    return running_node().fingerprint


@contextmanager
def set_running_node(node: RunningNode) -> Iterator[None]:
    """Makes `node` the running node inside the `with` block."""
    token = _running.set(node)
    try:
        yield
    finally:
        _running.reset(token)
