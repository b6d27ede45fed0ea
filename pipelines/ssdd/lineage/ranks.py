"""Under torchrun: rank 0 runs the pipeline, the other ranks join it in the nodes tagged `distributed`.

Rank 0 alone decides, saves and stamps. Before each node that is run jointly it announces the node with its
fingerprint in torchrun's store; the others then load the node's inputs, call its function and drop what it
returns. The run's folder must be on a disk that all machines share.
"""

import json
import os
from datetime import timedelta
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from ssdd.lineage.running_node import Current

TAG = "distributed"
_LONGEST = timedelta(days=30)  # what rank 0 may be busy with between two joint nodes


def rank() -> int:
    """Returns this process's rank under torchrun, 0 outside it."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """Returns the number of processes under torchrun, 1 outside it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


class Announcements:
    """What rank 0 tells the others, in order. Does nothing where there are no others."""

    def __init__(self) -> None:
        self._number = 0
        self._store = _store() if world_size() > 1 else None

    def announce(self, node: Current) -> None:
        """Rank 0: tells that this node runs now."""
        content = {"node": node.node, "fingerprint": node.fingerprint, "extends": node.extends}
        self._put(content)

    def end(self) -> None:
        """Rank 0: tells that there is nothing more to join."""
        self._put({"node": None})

    def next(self) -> dict[str, Any]:
        """The others: waits for the next announcement; its `node` is None at the end."""
        assert self._store is not None
        content = json.loads(self._store.get(f"node/{self._number}"))
        self._number += 1
        return content

    def _put(self, content: dict[str, Any]) -> None:
        if self._store is not None:
            self._store.set(f"node/{self._number}", json.dumps(content))
            self._number += 1


def load_inputs(node: Node, pipeline: Pipeline, catalog: CatalogProtocol) -> dict[str, Any]:
    """Returns a node's inputs; those in memory are made first."""
    producers = {name: other for other in pipeline.nodes for name in other.outputs}
    for name in node.inputs:
        if name in producers and not catalog.exists(name):
            for output, data in producers[name].run(load_inputs(producers[name], pipeline, catalog)).items():
                if output not in catalog or getattr(catalog.get(output), "_EPHEMERAL", False):
                    catalog.save(output, data)
    return {name: catalog.load(name) for name in node.inputs}


def _store() -> Any:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        raise ValueError(
            "expected several processes to be started by torchrun, got RANK and WORLD_SIZE without its "
            "store: use `torchrun -m kedro run`, or one process and --params runtime.processes=N"
        )
    import torch.distributed as distributed

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = distributed.TCPStore(address, port, is_master=False, timeout=_LONGEST)
    return distributed.PrefixStore(f"lineage/{attempt}", store)
