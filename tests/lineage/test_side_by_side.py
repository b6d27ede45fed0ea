"""Trainings that need nothing of each other run at the same time, and end as if they had run one after the other."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

TRAININGS = """
    import json, os, time

    from ssdd.files import atomic_write
    from ssdd.lineage import state_folder
    from ssdd.processes import launch
    from ssdd.training.interrupts import Interrupted, Interrupts
    from toy.notes import note
    from toy.parameters import Side

    # Processes take seconds to start, and not all as many: so they wait for what a test is about.
    AWAITED = {
        ("waits", "short"): "begin long", ("waits", "long"): "begin further", ("fails", "long"): "begin short",
    }

    def work(name, folder, steps, pause, fault=""):
        file = folder / "state.json"
        losses = json.loads(file.read_text()) if file.exists() else []
        with Interrupts() as interrupts:
            note(f"begin {name} at {len(losses)} in {os.getpid()}")
            while AWAITED.get((fault, name), "") not in open(os.environ["TOY_LOG"]).read():
                time.sleep(0.1)
            while len(losses) < steps:
                time.sleep(pause)
                losses.append(len(losses) / 2)
                if fault == "fails" and len(losses) == 2:
                    raise RuntimeError(f"no luck with {name}")
                if interrupts.received:
                    if fault == "saves slowly":
                        note(f"saves {name}")
                        time.sleep(1.5)
                    with atomic_write(file) as temporary:
                        temporary.write_text(json.dumps(losses))
                    note(f"saved {name}")
                    raise Interrupted(interrupts.received, len(losses))
        note(f"end {name}")
        return losses

    def short(table, side: Side):
        return launch(work, 1, "short", state_folder(), side.steps, side.pause, side.fault.replace("fails", ""))

    def long(table, side: Side):
        return launch(work, 1, "long", state_folder(), 3 * side.steps, side.pause, side.fault)

    def further(short, side: Side):
        return launch(work, 1, "further", state_folder(), side.steps, side.pause)

    def look(table):
        note("look")
        return 1

    def judge(short):
        note("judge")
        return len(short)

    def compare(short, long, further):
        note("compare")
        return [short, long, further]
"""
REGISTRY = """
    from kedro.pipeline import Pipeline, node
    from toy import trainings

    def register_pipelines():
        def training(function, inputs, output):
            return node(function, [*inputs, "params:side"], output, name=output, tags=["training"])

        return {"__default__": Pipeline([
            training(trainings.short, ["source"], "short"),
            training(trainings.long, ["source"], "long"),
            training(trainings.further, ["short"], "further"),
            node(trainings.look, "source", "seen", name="a_look"),
            node(trainings.judge, "short", "judged", name="a_judge"),
            node(trainings.compare, ["short", "long", "further"], "compared", name="compare"),
        ])}
"""
SIDE = """

    class Side(Strict):
        neutral: ClassVar[tuple[str, ...]] = ("pause", "fault")
        steps: int
        pause: float
        fault: str
"""
CATALOG = "".join(
    f'{name}: {{type: ssdd.datasets.JSONDataset, filepath: "${{_run}}/{name}.json"}}\n'
    for name in ("short", "long", "further", "seen", "judged", "compared")
)
BACKGROUND = ("short", "long", "further")
SLOW, QUICK = "side.steps=300,side.pause=0.1", "side.steps=300,side.pause=0"


@pytest.fixture
def side(project):
    project.write("pipelines/toy/trainings.py", TRAININGS)
    project.write("pipelines/toy/pipeline_registry.py", REGISTRY)
    parameters = project.folder / "pipelines/toy/parameters.py"
    project.write("pipelines/toy/parameters.py", parameters.read_text() + SIDE.replace("\n    ", "\n"))
    with open(project.folder / "conf/base/catalog.yml", "a") as file:
        file.write(CATALOG)
    project.write(
        "conf/base/parameters.yml",
        """
        run_name: ${globals:run_name}
        side: {steps: 2, pause: 0.2, fault: ""}
        runtime: {trainings_at_once: 2}
        """,
    )
    return project


SCRIPT = """
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    print("the script begins")
    bootstrap_project(".")
    with KedroSession.create(".") as session:
        session.run()
"""


def results(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.json") if ".lineage" not in file.name}


def events(notes):
    """The notes without process ids and step numbers."""
    return [" ".join(note.split()[:2]) for note in notes]


def wait_for(project, process, *notes):
    while not all(note in project.log.read_text() for note in notes):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)


def trainings_of(process):
    """The processes of the trainings."""
    children = psutil.Process(process.pid).children()
    found = []
    for child in children:
        with contextlib.suppress(psutil.Error):  # git and others come and go
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_two_at_a_time_and_all_else_alone(side):
    status, output = side.kedro("run", "--params", "side.fault=waits")
    assert status == 0, output
    notes = side.notes()
    found = events(notes)
    assert found[0] == "look"  # before the trainings, as in Kedro's order
    assert set(found[1:3]) == {"begin short", "begin long"}  # both before one ends
    assert found[3:5] == ["end short", "begin further"]  # while the long one goes on
    assert set(found[5:7]) == {"end long", "end further"}
    assert found[7:] == ["judge", "compare"]  # though it could have been judged long before
    processes = {note.split()[-1] for note in notes if note.startswith("begin")}
    assert len(processes) == 3
    for name in BACKGROUND:
        assert output.count(f"done: {name} in") == 1
    status, output = side.kedro("run", "--params", "side.fault=waits")
    assert (status, side.notes()) == (0, []), output
    assert "nothing to do" in output

    status, output = side.kedro("run", "--params", "run_name=sequence,runtime.trainings_at_once=1")
    assert status == 0, output
    assert events(side.notes())[1:5] == ["begin long", "end long", "begin short", "end short"]
    assert len({note.split()[-1] for note in side.notes() if note.startswith("begin")}) == 1
    assert results(side.data) == results(side.folder / "data" / "sequence")


@pytest.mark.slow
def test_one_that_is_left_alone_runs_in_the_runs_own_process(side):
    assert side.kedro("run")[0] == 0
    (side.data / "further.json").unlink()
    process = side.start("run")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert side.notes()[0] == f"begin further at 0 in {process.pid}"


@pytest.mark.slow
def test_a_failure_stops_the_other_one_which_goes_on_later(side):
    status, output = side.kedro("run", "--params", f"{SLOW},side.fault=fails")
    assert status == 1
    assert "no luck with long" in output
    assert "failed: long; the results of earlier nodes are kept" in output
    assert events(side.notes())[-1] == "saved short"
    viz = json.loads((side.folder / ".viz/kedro_pipeline_events.json").read_text())
    assert {event["node"] for event in viz if "error" in event["event"]} == {"long"}  # short began after it
    status, output = side.kedro("run", "--params", QUICK)
    assert status == 0, output


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGTERM, 143),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(signal.SIGINT, 130), (signal.SIGUSR1, 138)]),
    ],
)
def test_a_signal_saves_both(side, number, status):
    process = side.start("run", "--params", SLOW)
    wait_for(side, process, "begin short", "begin long")
    time.sleep(0.5)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert output.count("state saved: run the same command to go on") == 2
    assert "Traceback" not in output
    assert set(events(side.notes())[-2:]) == {"saved short", "saved long"}
    status, output = side.kedro("run", "--params", QUICK)
    assert status == 0, output
    begun = {note.split()[1]: int(note.split()[3]) for note in side.notes() if note.startswith("begin")}
    assert begun["short"] > 0
    assert begun["long"] > 0
    assert len((side.data / "long.json").read_text().split(",")) == 900


@pytest.mark.slow
def test_a_killed_training_says_so(side):
    process = side.start("run", "--params", SLOW)
    wait_for(side, process, "begin short", "begin long")
    killed = next(int(note.split()[-1]) for note in side.notes() if note.startswith("begin long"))
    os.kill(killed, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "was killed by SIGKILL (exit code -9): the same command goes on" in output
    assert events(side.notes())[-1] == "saved short"


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(side):
    process = side.start("run", "--params", SLOW)
    wait_for(side, process, "begin short", "begin long")
    processes = [int(note.split()[-1]) for note in side.notes() if note.startswith("begin")]
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(map(psutil.pid_exists, processes)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(psutil.pid_exists, processes))


@pytest.mark.slow
def test_ctrl_c_while_processes_start_prints_no_traceback(side):
    process = side.start("run", "--params", SLOW)
    while len(processes := trainings_of(process)) < 2:
        time.sleep(0.01)
    for each in (*processes, process):  # as a terminal does
        each.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "stopping: long, short" in output
    assert "Traceback" not in output
    assert "failed" not in output


@pytest.mark.slow
def test_a_second_ctrl_c_waits_for_the_states_too(side):
    process = side.start("run", "--params", f"{SLOW},side.fault=saves slowly")
    wait_for(side, process, "begin short", "begin long")
    for _ in range(2):
        for each in (*trainings_of(process), process):
            each.send_signal(signal.SIGINT)
        wait_for(side, process, "saves long")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert output.count("state saved: run the same command to go on") == 2
    assert "Traceback" not in output
    assert "Interrupted." not in output  # which says that the run has ended
    assert "failed" not in output


@pytest.mark.slow
def test_a_training_whose_result_stays_in_memory_ends_before_its_user_begins(side):
    with open(side.folder / "conf/base/catalog.yml") as file:
        lines = [line for line in file if not line.startswith("short:")]
    side.write("conf/base/catalog.yml", "".join(lines))
    status, output = side.kedro("run", "--params", "runtime.trainings_at_once=3")
    assert status == 0, output
    found = events(side.notes())
    assert found.index("end short") < found.index("begin further")


@pytest.mark.slow
def test_a_script_without_a_guard_runs_once(side):
    side.write("script.py", SCRIPT)
    side.log.write_text("")
    done = subprocess.run([sys.executable, "script.py"], env=side.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the script begins") == 1
    assert len({note.split()[-1] for note in side.notes() if note.startswith("begin")}) == 3


@pytest.mark.slow
def test_under_a_launcher_trainings_follow_one_another(side):
    side.environment |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    status, output = side.kedro("run")
    assert status == 0, output
    assert len({note.split()[-1] for note in side.notes() if note.startswith("begin")}) == 1
