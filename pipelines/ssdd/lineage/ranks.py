"""Several ranks of one launcher: rank 0 runs the pipeline, the others join it in the nodes tagged `distributed`.

Rank 0 alone decides, saves and stamps. Before each node that is run jointly, rank 0 announces the node with its
fingerprint in a store that all ranks share; the other ranks then load the node's inputs, call its function and drop the
result. The run's folder must be on a disk that all machines share.
"""

import contextlib
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
_ARRIVAL = timedelta(minutes=10)  # in which all ranks of a launcher have started
_PARTING = timedelta(minutes=1)  # in which all ranks have read the last announcement


def rank() -> int:
    """Returns this process's rank, 0 if it is alone."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """Returns the number of processes of the launcher, 1 without one."""
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
        """Rank 0: announces that no joint node follows, and waits until the other ranks know it."""
        self._put({"node": None})
        if self._store is not None:
            # Outside torchrun the store ends with this process. A rank that failed at its last node says so itself.
            with contextlib.suppress(RuntimeError):
                self._store.wait([f"left/{other}" for other in range(1, world_size())], _PARTING)

    def next(self) -> dict[str, Any]:
        """Other ranks: waits for the next announcement; its `node` is None at the end."""
        assert self._store is not None
        # The store blocks until the key is there, so the ranks need no other signal.
        content = json.loads(self._store.get(f"node/{self._number}"))
        self._number += 1
        if content["node"] is None:
            self._store.set(f"left/{rank()}", "")
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
    """Returns the store of all ranks: that of torchrun, or else one in rank 0's process, at the address of the group.

    Raises:
        ValueError: the address is in use, or not all ranks are there in time.
    """
    import torch.distributed as distributed

    from ssdd.meeting import agree

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = rank() == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        # PyTorch's own group shares the store that its first rank hosts, because both are multi-tenant.
        server = distributed.TCPStore(
            address, port, is_master=hosts, wait_for_workers=False, multi_tenant=hosts, timeout=_ARRIVAL
        )
        name = agree(distributed.PrefixStore("lineage", server), rank(), world_size(), _ARRIVAL)
    except (distributed.DistStoreError, distributed.DistNetworkError) as error:
        raise ValueError(
            f"expected {world_size()} ranks to meet at {address}:{port}, got: {str(error).splitlines()[0]}; start all "
            "of them, set MASTER_ADDR to the machine of rank 0 and MASTER_PORT to a free port there"
        ) from error
    store = distributed.PrefixStore(f"lineage/{name}", server)
    store.set_timeout(_LONGEST)
    return store
