"""`runtime.threads: auto`: the choice follows the measured times, and is made only where there is one."""

import logging
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from ssdd.parameters import RuntimeConfig, StageParameters
from ssdd.processes import launch, use_threads
from ssdd.training.threads import ROUNDS, SlowdownWatch, choose_threads, is_measured, kept_threads

AUTO = RuntimeConfig(device="cpu", threads="auto")
STAGE = StageParameters()


@pytest.fixture(autouse=True)
def four_threads():
    with kept_threads():
        torch.set_num_threads(4)
        yield


@pytest.fixture
def choose(monkeypatch):
    """Chooses by a clock that only steps move, and returns the number and the numbers that the steps ran with."""
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr("ssdd.training.threads.time", SimpleNamespace(perf_counter=lambda: clock.now))

    def measure(one, four):
        seconds, seen = {1: iter(one), 4: iter(four)}, []

        def step():
            seen.append(torch.get_num_threads())
            clock.now += next(seconds[seen[-1]])

        choose_threads(step, "training")
        return torch.get_num_threads(), seen

    return measure


@pytest.mark.parametrize(("four", "chosen"), [(0.05, 4), (0.09, 4), (0.092, 1), (0.1, 1), (0.3, 1)])
def test_more_threads_need_a_clear_gain(choose, four, chosen):
    assert choose([0.1] * ROUNDS, [four] * ROUNDS) == (chosen, [1, 4] * ROUNDS)


@pytest.mark.parametrize(
    ("one", "four", "chosen"),
    [
        ([4.0, *[0.1] * 8], [0.2] * 9, 1),
        ([0.01, *[0.1] * 8], [0.3, *[0.05] * 8], 4),
        ([0.1] * 9, [0.01, *[0.2] * 5, *[0.01] * 3], 1),
    ],
)
def test_medians_count_and_first_calls_do_not(choose, one, four, chosen):
    assert choose(one, four)[0] == chosen


@pytest.mark.parametrize(("one", "four", "rounds"), [(60.0, 20.0, 1), (2.0, 1.0, 2), (1.0, 0.5, 4)])
def test_long_steps_are_timed_less_often(choose, one, four, rounds):
    assert choose([one] * ROUNDS, [four] * ROUNDS) == (4, [1, 4] * rounds)


def test_a_slowdown_leaves_one_thread_and_says_so(caplog):
    caplog.set_level(logging.INFO, "ssdd")
    watch = SlowdownWatch("training", active=True)
    for seconds in [5.0, *[0.1] * 20, *[2.0] * 4, *[0.1] * 9, *[0.29] * 9]:  # a short break, and a slower machine
        watch.record(seconds)
        assert torch.get_num_threads() == 4
    for seconds in [1.0] * 5:
        watch.record(seconds)
    assert torch.get_num_threads() == 1
    assert caplog.messages == [
        "training: a step takes 1 s instead of 0.1 s, as if another process needed a core; 1 thread from now on"
    ]


def test_many_threads_stay_while_one_may_be_slower():
    torch.set_num_threads(16)
    watch = SlowdownWatch("training", active=True)
    for seconds in [*[0.1] * 9, *[1.5] * 9]:
        watch.record(seconds)
    assert torch.get_num_threads() == 16


def test_a_number_that_was_given_stays():
    watch = SlowdownWatch("training", active=False)
    for seconds in [*[0.1] * 9, *[9.0] * 9]:
        watch.record(seconds)
    assert torch.get_num_threads() == 4


def test_the_log_says_what_was_measured(choose, caplog):
    caplog.set_level(logging.INFO, "ssdd")
    choose([0.125] * ROUNDS, [0.0625] * ROUNDS)
    assert caplog.messages == [
        "training: a step takes 0.125 s with 1 thread and 0.0625 s with 4; 4 from now on",
    ]


def test_there_is_a_choice_for_one_process_on_several_cores(monkeypatch):
    assert is_measured(STAGE, AUTO)
    for threads in (None, 1, 4):
        assert not is_measured(STAGE, AUTO.model_copy(update={"threads": threads}))
    assert not is_measured(STAGE.model_copy(update={"compile": True}), AUTO)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        assert not is_measured(STAGE, AUTO.model_copy(update={"device": "auto"}))
        assert is_measured(STAGE, AUTO)
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "0")  # as torchrun does
        assert not is_measured(STAGE, AUTO)
    torch.set_num_threads(1)
    assert not is_measured(STAGE, AUTO)


@pytest.mark.slow
def test_several_processes_share_the_cores_and_measure_nothing():
    assert launch(torch.get_num_threads, 2) == 2
    assert not launch(is_measured, 2, STAGE, AUTO)


def test_other_stages_take_auto_for_null():
    use_threads(AUTO)
    assert torch.get_num_threads() == 4
    use_threads(AUTO.model_copy(update={"threads": 2}))
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("threads", ["auto", None, 1, 1024])
def test_numbers_that_fit(threads):
    assert RuntimeConfig(threads=threads).threads == threads


@pytest.mark.parametrize("threads", [0, -1, 1025, 2.5, "three", ""])
def test_numbers_that_do_not_fit(threads):
    with pytest.raises(ValidationError, match="expected a number from 1 to 1024, auto or null, got") as caught:
        RuntimeConfig(threads=threads)
    assert caught.value.error_count() == 1
