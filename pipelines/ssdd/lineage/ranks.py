"""Under torchrun: rank 0 runs the pipeline, the other ranks join it in the nodes tagged `distributed`.

Rank 0 alone decides, saves and stamps. Before each node that is run jointly, rank 0 announces the node with its
fingerprint in torchrun's store; the other ranks then load the node's inputs, call its function and drop the
result. The run's folder must be on a disk that all machines share.
"""

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from ssdd.lineage.catalog_entries import get_dataset, in_memory
from ssdd.lineage.running_node import RunningNode, set_running_node

TAG = "distributed"
_LONGEST = timedelta(days=30)  # rank 0 may be busy so long between two joint nodes; torch's default is 5 minutes


def rank() -> int:
    """Returns this process's rank under torchrun, 0 outside it."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """Returns the number of processes under torchrun, 1 outside it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


class Announcements:
    """The messages from rank 0 to the other ranks, in order. Does nothing where there are no others."""

    def __init__(self) -> None:
        self._number = 0
        self._store = _store() if world_size() > 1 else None

    def announce(self, node: RunningNode) -> None:
        """Rank 0: announces that this node runs now."""
        content = {"node": node.node, "fingerprint": node.fingerprint, "extends": node.extends}
        self._put(content)

    def end(self) -> None:
        """Rank 0: announces that no joint node follows."""
        self._put({"node": None})

    def next(self) -> dict[str, Any]:
        """Other ranks: waits for the next announcement; its `node` is None at the end."""
        assert self._store is not None
        # The store blocks until the key is there, so the ranks need no other signal.
        content = json.loads(self._store.get(f"node/{self._number}"))
        self._number += 1
        return content

    def _put(self, content: dict[str, Any]) -> None:
        if self._store is not None:
            self._store.set(f"node/{self._number}", json.dumps(content))
            self._number += 1


def join(
    announcements: Announcements, pipeline: Pipeline, catalog: CatalogProtocol, run_name: str, run_folder: Path
) -> None:
    """Another rank than 0: takes part in the joint nodes until rank 0 announces the end."""
    nodes = {node.name: node for node in pipeline.nodes}
    while (announced := announcements.next())["node"] is not None:
        node = nodes[announced["node"]]
        inputs = _load_inputs(node, pipeline, catalog)
        # The fingerprint of rank 0, not a new one: the files may have changed since rank 0 read them.
        running = RunningNode(
            node.name, run_name, run_folder, announced["fingerprint"], extends=announced["extends"], joined=True
        )
        with set_running_node(running):
            node.run(inputs)


def _load_inputs(node: Node, pipeline: Pipeline, catalog: CatalogProtocol) -> dict[str, Any]:
    """Returns a node's inputs; those in memory are made first, since each process has a memory of its own."""
    producers = {name: other for other in pipeline.nodes for name in other.outputs}
    for name in node.inputs:
        if name in producers and not catalog.exists(name):
            for output, data in producers[name].run(_load_inputs(producers[name], pipeline, catalog)).items():
                if in_memory(get_dataset(catalog, output)):  # files are rank 0's to save
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
