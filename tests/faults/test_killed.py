"""A small distillation is killed by SIGKILL fifty times, at any moment, and ends with the same bytes.

SSDD_FAULT_SEED decides which process is killed at which moment, never a clock.
"""

import re
import signal

KILLS = 50
BY_COMMAND = 3  # of them through a `kedro` of their own, which takes seconds to import everything
LINES = 20  # at most, that such a command says before the kill
MOMENTS = (  # what is about to be done to which file, and how often at most before the kill
    ("open", ".partial", 25),  # a checkpoint, a state, a table or a figure is written
    ("open", ".lineage.json", 12),  # a stamp
    ("os.rename", "", 25),  # anything gets its name
    ("os.remove", "", 5),  # an old state goes
    ("torch.nn:Conv2d.forward", "", 1500),  # a network computes: the teacher's targets, training, an evaluation
    ("torch.nn:Conv2d.forward", "", 500),
    ("accelerate:Accelerator.backward", "", 20),  # in a step of the training
    ("accelerate.optimizer:AcceleratedOptimizer.step", "", 20),
)


def stage_of(said):
    """The stage that was under way."""
    started = re.findall(r"(?:run|resume|continue): (\S+) \(", said)
    done = set(re.findall(r"done: (\S+) in", said))
    return next((node for node in reversed(started) if node not in done), "planning")


def kill_at_a_moment(runs, name, chance):
    """A run killed when a file is about to be opened, renamed or removed, or a network to compute."""
    event, part, most = chance.choice(MOMENTS)
    attempt = runs.start(name, fault={"event": event, "name": part, "nth": chance.randint(1, most)})
    return attempt.wait(), attempt.said


def kill_a_command(runs, name, chance):
    """A run of the command line killed when it says a line."""
    process = runs.project.start(*runs.command(name))
    said = ""
    for _ in range(chance.randint(1, LINES)):
        said += process.stdout.readline()
    process.kill()
    rest, _ = process.communicate()
    return process.returncode, said + rest


def test_fifty_kills_lose_nothing(runs, undisturbed, chance, tally):
    kills, finished, name = 0, 0, "killed-0"
    runs.prepare(name)
    while kills < KILLS:
        how = kill_a_command if kills % (KILLS // BY_COMMAND) == 7 else kill_at_a_moment
        code, said = how(runs, name, chance)
        assert runs.wait_for_processes() == []
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
    assert runs.listening() == set()
    tally("kills", survived=kills)


def check_finished(runs, name, undisturbed):
    """Checks that a run has the bytes of an undisturbed one and no leftovers."""
    made = runs.contents(name)
    assert made.keys() == undisturbed.keys()
    assert [path for path in made if made[path] != undisturbed[path]] == []
    assert runs.leftovers(name) == []


def test_what_others_leave_half_written_goes(runs, undisturbed, chance, tally):
    """safetensors writes to a temporary name without an audit event, so no fault above can strike there."""
    folder = runs.prepare("half-written")
    fault = {"event": "accelerate:Accelerator.backward", "nth": chance.randint(4, 9)}
    code, said = runs.run("half-written", fault=fault)
    assert code == -signal.SIGKILL, said
    tally("kills", tried=1)
    places = ("models", "training/teacher_targets", "state/distill.distill_teacher")
    for place in places:
        for name in (".tmpa1B2c3", ".models.x.partial.safetensors"):
            (folder / place / name).write_bytes(b"half")
    code, said = runs.run("half-written")
    assert code == 0, said
    check_finished(runs, "half-written", undisturbed)
    tally("kills", survived=1)
