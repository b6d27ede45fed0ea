"""Ranks meet in torchrun's store, which keeps the keys of ranks that died before torchrun started all again.

PyTorch's own group takes the addresses that it finds there. A new rank can then wait half an hour for a process that
is gone.
"""

import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from typing import Any

import torch.distributed as distributed

SCHEME = "ssdd-meeting"
_PAUSE = 0.02  # seconds between two looks of rank 0


def init_method() -> str | None:
    """Returns the `init_method` of PyTorch's process group: ours where torchrun hosts the store, else the usual one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    _register()
    return f"{SCHEME}://"


def agree(store: distributed.Store, rank: int, ranks: int, patience: timedelta) -> str:
    """Returns a name that all ranks of this start share, and no rank of an earlier one.

    Every other rank shows a token that nobody had before it; rank 0 answers each token with the name. The token of a
    dead rank may get an answer too: nobody reads it.

    Args:
        store: of all ranks, with any keys of earlier starts.
        rank: of this process.
        ranks: their number.
        patience: how long to wait for the others.

    Raises:
        distributed.DistStoreError: not all ranks came in time.
    """
    if rank:
        token = uuid.uuid4().hex
        store.set(f"token/{rank}", token)
        store.wait([f"name/{token}"], patience)
        name = store.get(f"name/{token}").decode()
        store.set(f"taken/{name}/{rank}", "")
        return name
    name, absent = uuid.uuid4().hex, set(range(1, ranks))
    deadline = time.monotonic() + patience.total_seconds()
    while absent:
        for other in sorted(absent):
            if store.check([f"token/{other}"]):
                store.set(f"name/{store.get(f'token/{other}').decode()}", name)
        absent = {other for other in absent if not store.check([f"taken/{name}/{other}"])}
        if absent and time.monotonic() > deadline:
            raise distributed.DistStoreError(f"ranks {sorted(absent)} of {ranks} did not come")
        time.sleep(_PAUSE)
    return name


@cache
def _register() -> None:
    distributed.register_rendezvous_handler(SCHEME, _meet)  # refuses a second time


def _meet(
    url: str, timeout: timedelta = timedelta(minutes=30), **_: Any
) -> Iterator[tuple[distributed.Store, int, int]]:
    """PyTorch's rendezvous: yields the store of the group, the rank and the number of ranks."""
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    server = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timeout)
    name = agree(distributed.PrefixStore(SCHEME, server), rank, ranks, timeout)
    yield distributed.PrefixStore(name, server), rank, ranks
    raise RuntimeError("a rank meets the others once: start it again")
