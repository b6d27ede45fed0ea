"""`kedro run`: options, one-line errors, silence, and what Kedro-Viz gets to see."""

import json
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner


def invoke(*arguments):
    from ssdd.cli import cli

    result = CliRunner().invoke(cli, ["run", *arguments])
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--params", "trian.lr=1"], "unknown parameter 'trian'; did you mean 'train'?"),
        (["--params", "train.lrr=1"], "unknown parameter 'train.lrr'; did you mean 'train.lr'?"),
        (
            ["--params", "train.optim.decy=1"],
            "unknown parameter 'train.optim.decy'; did you mean 'train.optim.decay'?",
        ),
        (
            ["--params", "train.lr=fast"],
            "parameter 'train.lr': input should be a valid number, unable to parse",
        ),
        (["--params", "train=3"], "parameter 'train': input should be a valid dictionary"),
        (
            ["--params", "runtime.worker=3"],
            "unknown parameter 'runtime.worker'; did you mean 'runtime.workers'?",
        ),
        (["--params", "run_name=../x"], "expected a run_name of letters, digits"),
        (["--params", "teacher=frist"], "teacher: no file and no run is called 'frist'"),
        (["--env", "othr"], "unknown env 'othr'; did you mean 'other'?"),
        (["--pipeline", "trainin"], "unknown pipeline 'trainin'; did you mean 'training'?"),
        (["--pipelines", "trainin"], "unknown pipeline 'trainin'; did you mean 'training'?"),
        (["--from-nodes", "drew"], "unknown node 'drew'; did you mean 'draw'?"),
        (["--to-nodes", "train"], "unknown node 'train'; did you mean 'training.train'?"),
        (["--nodes", "draw,tel"], "unknown node 'tel'; did you mean 'tell'?"),
        (["--tags", "erly"], "unknown tag 'erly'; did you mean 'early'?"),
        (["--to-outputs", "wieghts"], "unknown dataset 'wieghts'; did you mean 'weights'?"),
        (["--namespaces", "trainin"], "unknown namespace 'trainin'; did you mean 'training'?"),
        (["--runner", "ThreadRunner"], "expected this project's own runner"),
    ],
)
def test_a_users_error_is_one_line(project, arguments, said):
    status, output = invoke(*arguments)
    assert status != 0
    assert said in output
    errors = [line for line in output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "Traceback" not in output
    assert not project.data.exists() or not list(project.data.glob("*.csv"))


def test_a_missing_and_a_broken_source_are_one_line(project):
    (project.folder / "source.csv").rename(project.folder / "elsewhere.csv")
    status, output = invoke()
    assert status == 1
    assert f"expected 'source' at {project.folder}/source.csv, found nothing there" in output
    (project.folder / "source.csv").write_bytes(b"\xff\xfe\x00\n\x80")
    status, output = invoke()
    assert status == 1
    assert "Error: 'utf-8' codec can't decode" in output


def test_a_plan_of_missing_outputs_is_refused(project):
    status, output = invoke("--plan", "--only-missing-outputs")
    assert status == 1
    assert "Error: expected --plan or --only-missing-outputs, got both" in output


@pytest.mark.parametrize("where", ["training.nonfinite import NotFiniteError", "processes import WorkerFailed"])
def test_training_that_broke_off_is_told_without_the_commands_own_traceback(project, where):
    name = where.rpartition(" ")[2]
    raising = f"from ssdd.{where}\n    raise {name}('loss.lpips is not finite in step 7')"
    project.edit("nodes.py", 'note("draw")', raising)
    project.load()
    status, output = invoke()
    assert status == 1
    assert output.splitlines()[-1] == "Error: loss.lpips is not finite in step 7"
    assert "Traceback" not in output


def test_the_projects_checks_see_the_nodes_that_may_run(project):
    project.write(
        "pipelines/toy/checks.py",
        """
        from toy.notes import note

        def names(nodes, catalog):
            note("names: " + " ".join(sorted(node.name for node in nodes)))

        def networks(nodes, catalog):
            note("networks")
            raise ValueError("a pretrained network is missing")
        """,
    )
    project.run()
    settings = project.folder / "pipelines" / "toy" / "settings.py"
    rules = "replace(RULES, before_plan=names, before_run=networks)"
    text = f"from toy.checks import names, networks\nRULES = {rules}\nHOOKS = (ProjectHooks(RULES), RULES)\n"
    settings.write_text(settings.read_text() + text)
    (project.data / "figure.png").unlink()
    project.load()
    project.log.write_text("")
    assert invoke("--plan")[0] == 0
    assert project.notes() == ["names: draw"]
    status, output = invoke()
    assert (status, "Error: a pretrained network is missing" in output) == (1, True)
    assert project.notes() == ["names: draw", "names: draw", "networks"]


def test_an_unknown_group_in_a_file_is_refused_too(project):
    project.write("conf/other/parameters.yml", "trian: {lr: 1}\n")
    status, output = invoke("--env", "other")
    assert status == 1
    assert "unknown parameter 'trian'; did you mean 'train'?" in output


def test_pipeline_is_read_as_pipelines_without_a_warning(project, recwarn):
    assert invoke("--pipeline", "training")[0] == 0
    assert project.notes()[-1] == "epoch 3"
    assert not [item for item in recwarn if "pipeline" in str(item.message)]
    status, output = invoke("--pipeline", "training", "--pipelines", "training")
    assert (status, "not both" in output) == (2, True)


def test_params_given_twice_both_count(project):
    project.run()
    given = [
        "--params=train.lr=0.25",
        "--params",
        "tell.title=good evening,runtime.workers=1",
        "--params",
        "run_name=first",
    ]
    status, output = invoke("--plan", *given)
    assert status == 0
    assert "train.lr: 0.5 -> 0.25" in output
    assert 'tell.title: "hello" -> "good evening"' in output


def test_params_without_a_value_is_no_run_with_the_defaults(project):
    status, output = invoke("--params")
    assert (status, "Option '--params' requires an argument" in output) == (2, True)
    assert not project.log.exists()


def test_plan_prints_and_writes_nothing(project):
    status, output = invoke("--plan")
    assert status == 0
    assert "missing weights" in output
    assert "clean" in output
    assert not project.log.exists()
    assert not project.data.exists()
    assert not (project.folder / ".viz" / "kedro_pipeline_events.json").exists()


def test_a_stage_that_stops_itself_is_heard(project):
    project.edit("nodes.py", 'note("draw")', "raise Stopped(143)")
    project.edit(
        "nodes.py",
        "def draw(",
        "class Stopped(SystemExit):\n    def __str__(self):\n        return 'state saved'\n\ndef draw(",
    )
    project.load()
    status, output = invoke()
    assert status == 143
    assert output.splitlines()[-1] == "state saved"


def test_force_with_a_filter_reruns_the_chosen_nodes(project):
    project.run()
    project.log.write_text("")
    assert invoke("--force", "--nodes", "draw")[0] == 0
    assert project.notes() == ["draw"]


def test_a_quiet_quick_second_run_that_imports_neither_torch_nor_pandas(project):
    project.write("pipelines/toy/heavy.py", "import torch\n")  # reached by `draw`, read, and not imported
    project.edit("nodes.py", "import numpy\n", "import numpy\n    if not numpy:\n        import toy.heavy\n")
    project.run()
    program = """
import sys
sys.argv = ["kedro", "run"]
from kedro.framework.cli import main
try:
    main()
except SystemExit:
    pass
heavy = ("torch", "pandas", "matplotlib", "plotly", "PIL")
print("loaded:", [name for name in heavy if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
    )
    said = result.stdout + result.stderr
    assert "nothing to do: run 'first' is up to date" in said
    assert "loaded: []" in said
    for noise in ("Warning", "WARNING", "deprecat", "Traceback", "Loading data", "Workflow tracking"):
        assert noise not in said


def test_the_command_line_and_a_session_share_their_work(project):
    assert project.kedro("run", "--pipeline=training")[0] == 0
    assert project.run() == ["draw", "tell"]
    status, output = project.kedro("run")
    assert status == 0
    assert project.notes() == []
    assert output.count("up to date: ") == 4


def test_kedros_own_commands_work(project):
    assert "training" in project.kedro("registry", "list")[1]
    status, output = project.kedro("catalog", "describe-datasets")
    assert status == 0
    assert "weights_best" in output
    status, output = project.kedro("catalog", "resolve-patterns")
    assert status == 0
    entry = yaml.safe_load(output[output.index("figure:") :])["weights"]
    assert entry == {
        "type": "ssdd.datasets.checkpoint_dataset.CheckpointDataset",
        "filepath": str(project.data / "weights.safetensors"),
    }


def test_kedro_viz_sees_skipped_nodes_and_their_statistics(project):
    def record():
        events = json.loads((project.folder / ".viz/kedro_pipeline_events.json").read_text())
        nodes = {event["node"]: event["status"] for event in events if event["event"] == "after_node_run"}
        saved = {event["dataset"] for event in events if event["event"] == "after_dataset_saved"}
        return nodes, saved, json.loads((project.folder / ".viz/stats.json").read_text())

    project.run()
    first = record()
    assert len(first[0]) == 5
    assert first[2]["table"]["rows"] == 3
    assert project.kedro("run")[0] == 0  # in a process that knows of no earlier run
    assert project.notes() == []
    assert record() == first
    (project.data / "figure.png").unlink()
    project.run()
    assert record() == first
