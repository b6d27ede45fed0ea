import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ssdd.data import StepSampler

counts = st.integers(1, 60)
GOLDEN = [[6, 9, 4, 1, 5, 0, 8, 3, 7, 2], [3, 5, 4, 8, 6, 2, 1, 7, 0, 9]]


def everything(sampler: StepSampler, epoch: int) -> list[list[tuple[int, int]]]:
    sampler.set_position(epoch)
    return list(sampler)


@settings(deadline=None)
@given(
    length=counts,
    batch_size=counts,
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_training_ranks_together_are_the_single_process(length, batch_size, world_size, epoch, seed):
    assume(batch_size <= length and batch_size % world_size == 0)
    alone = everything(StepSampler(length, batch_size, seed=seed), epoch)
    ranks = [
        everything(StepSampler(length, batch_size, seed=seed, rank=rank, world_size=world_size), epoch)
        for rank in range(world_size)
    ]
    assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == alone
    assert all(len(part) == batch_size // world_size for rank in ranks for part in rank)
    assert len(alone) == length // batch_size
    indices = [index for batch in alone for _, index in batch]
    assert len(set(indices)) == len(indices) == length // batch_size * batch_size
    assert {key_epoch for batch in alone for key_epoch, _ in batch} == {epoch}


@settings(deadline=None)
@given(length=counts, batch_size=counts, world_size=st.integers(1, 5), shuffle=st.booleans())
def test_evaluation_covers_every_image_exactly_once(length, batch_size, world_size, shuffle):
    options = {"drop_last": False, "shuffle": shuffle, "world_size": world_size}
    ranks = [StepSampler(length, batch_size, rank=rank, **options) for rank in range(world_size)]
    seen = [index for rank in ranks for batch in rank for _, index in batch]
    assert sorted(seen) == list(range(length))
    for rank in ranks:
        assert len(list(rank)) == len(rank)
        assert all(batch for batch in rank)
        assert len(rank) >= rank.steps_per_epoch - 1 or batch_size < world_size
    for step in range(ranks[0].steps_per_epoch):
        sizes = [len(rank.batch(0, step)) for rank in ranks]
        assert max(sizes) <= -(-batch_size // world_size)
        assert sum(sizes) <= batch_size


@settings(deadline=None)
@given(length=counts, share=st.integers(1, 20), world_size=st.integers(1, 5))
def test_evaluation_makes_the_same_batches_with_any_number_of_processes(length, share, world_size):
    def batches(processes: int) -> list[list[tuple[int, int]]]:
        options = {"shuffle": False, "drop_last": False, "world_size": processes}
        ranks = [StepSampler(length, share * processes, rank=rank, **options) for rank in range(processes)]
        return sorted(batch for rank in ranks for batch in rank)

    assert batches(world_size) == batches(1)


@settings(deadline=None)
@given(length=counts, batch_size=counts, epoch=st.integers(0, 4), data=st.data())
def test_starting_anywhere_continues_the_uninterrupted_order(length, batch_size, epoch, data):
    assume(batch_size <= length)
    whole = everything(StepSampler(length, batch_size, seed=2), epoch)
    step = data.draw(st.integers(0, len(whole)))
    resumed = StepSampler(length, batch_size, seed=2)
    resumed.set_position(epoch, step)
    assert list(resumed) == whole[step:]
    assert len(resumed) == len(whole) - step


def test_iterating_does_not_move_the_position():
    sampler = StepSampler(10, 2)
    sampler.set_position(3, 1)
    assert list(sampler) == list(sampler)
    assert (sampler.epoch, sampler.step) == (3, 1)


def test_epochs_and_seeds_have_different_orders_and_drop_different_images():
    def order(seed: int, epoch: int) -> list[int]:
        return [index for batch in everything(StepSampler(103, 10, seed=seed), epoch) for _, index in batch]

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in range(10)]
    assert len({tuple(o) for o in orders}) == 20
    assert set().union(*orders) == set(range(103))  # what one epoch leaves out, another uses
    assert all(o != sorted(o) for o in orders)


def test_every_place_of_the_order_is_fair():
    hits = [0] * 8
    for epoch in range(800):
        hits[StepSampler(8, 1, seed=1).batch(epoch, 0)[0][1]] += 1
    assert min(hits) > 60
    assert max(hits) < 145


def test_order_is_the_same_on_every_machine_and_for_ever():
    sampler = StepSampler(10, 10, seed=7)
    assert [index for _, index in sampler.batch(0, 0)] == GOLDEN[0]
    assert [index for _, index in sampler.batch(1, 0)] == GOLDEN[1]


def test_without_shuffle_the_order_is_the_index():
    assert [i for batch in StepSampler(5, 2, shuffle=False, drop_last=False) for _, i in batch] == [
        0,
        1,
        2,
        3,
        4,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 3, "batch_size": 4}, "lower batch_size"),
        ({"length": 9, "batch_size": 3, "world_size": 2}, "multiple of 2"),
        ({"length": 0, "batch_size": 4}, "at least 1"),
        ({"length": 9, "batch_size": 3, "rank": 1}, "rank"),
        ({"length": 9, "batch_size": 3, "seed": -1}, "seed"),
    ],
)
def test_impossible_samplers(arguments, message):
    with pytest.raises(ValueError, match=message):
        StepSampler(**arguments)


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (0, 4)])
def test_positions_that_do_not_exist(position):
    with pytest.raises(ValueError, match=r"\[0, 3\]"):
        StepSampler(9, 3).set_position(*position)
