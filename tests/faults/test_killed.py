"""A small distillation killed by SIGKILL fifty times: whatever it was doing, it ends with the same bytes."""

import os
import re
import signal
import time

KILLS = 50
BY_COMMAND = 3  # of them through a `kedro` of their own, which takes seconds to import everything
SECONDS = 3.0  # an undisturbed run takes four
MOMENTS = (  # what is about to be done to which file, and how often at most before the kill
    ("open", ".partial", 25),  # a checkpoint, a state, a table or a figure is written
    ("open", ".lineage.json", 12),  # a stamp
    ("os.rename", "", 25),  # anything gets its name
    ("os.remove", "", 5),  # an old state goes
)


def stage_of(said):
    """The stage that was under way."""
    started = re.findall(r"(?:run|resume|continue): (\S+) \(", said)
    done = set(re.findall(r"done: (\S+) in", said))
    return next((node for node in reversed(started) if node not in done), "planning")


def kill_at_a_moment(runs, name, chance):
    """A run killed after some time, or when a file is about to be opened, renamed or removed."""
    if chance.random() < 0.4:
        attempt = runs.start(name)
        time.sleep(chance.uniform(0.3, SECONDS))
        os.kill(attempt.pid, signal.SIGKILL)
    else:
        event, part, most = chance.choice(MOMENTS)
        attempt = runs.start(name, fault={"event": event, "name": part, "nth": chance.randint(1, most)})
    return attempt.wait(), attempt.said


def kill_a_command(runs, name, chance):
    """A run of the command line killed after some time."""
    process = runs.project.start(*runs.command(name))
    time.sleep(chance.uniform(3, 4 + SECONDS))
    process.kill()
    said, _ = process.communicate()
    return process.returncode, said


def test_fifty_kills_lose_nothing(runs, undisturbed, chance, tally):
    kills, finished, name = 0, 0, "killed-0"
    runs.prepare(name)
    while kills < KILLS:
        how = kill_a_command if kills % (KILLS // BY_COMMAND) == 7 else kill_at_a_moment
        code, said = how(runs, name, chance)
        if code == -signal.SIGKILL:
            kills += 1
            tally("kills", tried=1, **{f"in {stage_of(said)}": 1})
            continue
        assert code == 0, said  # it ended before its time came
        check_finished(runs, name, undisturbed)
        finished += 1
        name = f"killed-{finished}"
        runs.prepare(name)
    code, said = runs.run(name)
    assert code == 0, said
    check_finished(runs, name, undisturbed)
    assert "nothing to do" in runs.run(name)[1]
    assert runs.processes() == []
    tally("kills", survived=kills)


def check_finished(runs, name, undisturbed):
    """Whatever happened to it, nothing shows."""
    made = runs.contents(name)
    assert made.keys() == undisturbed.keys()
    assert [path for path in made if made[path] != undisturbed[path]] == []
    assert runs.leftovers(name) == []
