"""A function in a process of its own: its result and its errors reach the caller as if it had been called there."""

import json
import os
import threading

import pytest

from ssdd.own_process import _sendable, own_process
from ssdd.processes import WorkerFailed, launch


@pytest.fixture(autouse=True)
def _own_process():
    with own_process(2):
        yield


def test_the_result_comes_back_from_another_process():
    assert launch(os.getpid, 1) != os.getpid()


def test_an_error_for_the_user_keeps_its_class_and_words():
    with pytest.raises(json.JSONDecodeError) as caught:
        launch(json.loads, 1, "{")
    assert "\n" not in str(caught.value)
    assert "in raw_decode" in "".join(caught.value.__notes__)  # for --traceback


def test_an_error_that_cannot_be_made_again_is_told_by_its_traceback():
    class Odd(ValueError):
        def __init__(self, one, two):
            super().__init__(f"{one} {two}")

    try:
        raise Odd("odd", "words")
    except Odd as error:
        sent, _ = _sendable(error)
    assert isinstance(sent, WorkerFailed)
    assert "Odd: odd words" in str(sent)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "argument", "said"),
    [
        (len, 1, "failed:\nTraceback .*TypeError: object of type 'int' has no len"),
        (threading.Semaphore, 1, "failed:\nTraceback .*cannot pickle '_thread.lock' object"),
        (os._exit, 3, r"ended \(exit code 3\)"),
    ],
)
def test_every_other_end_is_told(function, argument, said):
    with pytest.raises(WorkerFailed, match=f"(?s)^the process of a training {said}"):
        launch(function, 1, argument)
