"""Two runs at once on one run name: one works, the other names it and leaves everything alone."""

import re
import time

ROUNDS = 6
LINES = 12  # at most, that the first says before the second starts


def wait_for_lines(attempt, count):
    """Returns when the attempt has said so many lines, or has ended."""
    while attempt.said.count("\n") < count and attempt.is_running():
        time.sleep(0.01)


def test_the_second_of_two_is_told_about_the_first(runs, undisturbed, chance, tally):
    runs.prepare("shared")
    for _ in range(ROUNDS):
        attempts = [runs.start("shared")]
        wait_for_lines(attempts[0], chance.choice([0, chance.randint(1, LINES)]))
        attempts.append(runs.start("shared"))
        ended = [(attempt.wait(), attempt) for attempt in attempts]
        check_round(ended)
        assert runs.contents("shared") == undisturbed
        assert runs.leftovers("shared") == []
        tally("pairs of runs at once", tried=1, survived=1)
        for name in ("models/distilled.safetensors", "evaluation/metrics.csv"):  # something to do for the next pair
            (runs.folder("shared") / name).unlink()
    runs.run("shared")
    assert runs.contents("shared") == undisturbed


def check_round(ended):
    """At least one has worked; one that was refused says who was there and has run nothing."""
    refused = [attempt for code, attempt in ended if code]
    assert len(refused) < len(ended), [attempt.said for attempt in refused]
    for attempt in refused:
        assert "Traceback" not in attempt.said
        assert "done:" not in attempt.said
        (holder,) = re.findall(r"in use by process (\d+) since", attempt.said)
        assert int(holder) in [other.pid for _, other in ended if other is not attempt]
        assert "kedro run" in attempt.said
    if not refused:  # the second came after the first had ended
        assert any("nothing to do" in attempt.said for _, attempt in ended)
