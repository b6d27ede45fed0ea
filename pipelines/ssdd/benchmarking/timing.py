"""Timing of several ways to do the same: alternated in one process, so that other load slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Timing:
    """Times of one side.

    Args:
        seconds: one per round.
        ratios: seconds of this side / seconds of the reference side, one per round.
    """

    seconds: list[float]
    ratios: list[float]

    def summary(self) -> dict[str, float]:
        """Returns medians and the quartiles around them."""
        found: dict[str, float] = {}
        for name, values in (("seconds", self.seconds), ("ratio", self.ratios)):
            low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
            found |= {name: middle, f"{name}_q25": low, f"{name}_q75": high}
        return found


def time_sides(
    sides: Mapping[str, Callable[[], object]],
    reference: str,
    rounds: int,
    device: torch.device,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Timing]:
    """Calls each side once to warm up, then once a round, in an order that is reversed every other round.

    Args:
        sides: functions by name.
        reference: the side in the denominator of ratios.
        rounds: from 1 up.
        device: on which the sides compute.
        advance: called after each round.
    """
    names = list(sides)
    for name in names:
        sides[name]()  # the first call compiles, allocates and chooses algorithms
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        # Reversed every other round: a machine that gets slower as it warms up would favour the first side.
        for name in names if number % 2 == 0 else reversed(names):
            synchronize(device)
            start = time.perf_counter()
            sides[name]()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
        advance(1)
    # Ratios within a round: the load of a round meets both of its times, so it cancels out.
    return {
        name: Timing(own, [a / b for a, b in zip(own, seconds[reference], strict=True)])
        for name, own in seconds.items()
    }


def synchronize(device: torch.device) -> None:
    """Waits for the device to finish: CUDA computes asynchronously, and a call returns before its work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
