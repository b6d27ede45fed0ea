"""Ranks agree on a name of their own, whatever an earlier start left in the store."""

import threading
from datetime import timedelta

import pytest
import torch.distributed as distributed

from ssdd.meeting import agree

SHORT = timedelta(seconds=10)


def names(store, ranks):
    found = {}
    threads = [
        threading.Thread(target=lambda rank=rank: found.update({rank: agree(store(), rank, ranks, SHORT)}))
        for rank in range(ranks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(ranks)]


@pytest.fixture
def store():
    """Opens the same store for each rank, as each of them is a process of its own."""
    server = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    return lambda: distributed.TCPStore("localhost", server.port, is_master=False)


def test_each_start_has_a_name_of_its_own(store):
    first, second = names(store, 3), names(store, 3)
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]


def test_ranks_that_died_while_they_met_are_not_counted(store):
    open_store = store()
    open_store.set("token/1", "of a dead rank")
    with pytest.raises(distributed.DistStoreError, match=r"ranks \[1, 2\] of 3 did not come"):
        agree(store(), 0, 3, timedelta(seconds=0.2))
    assert len(set(names(store, 3))) == 1


def test_a_rank_without_the_first_does_not_wait_for_ever(store):
    with pytest.raises(distributed.DistStoreError):
        agree(store(), 1, 2, timedelta(seconds=0.2))
