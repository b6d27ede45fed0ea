"""Each change reruns exactly the right nodes, and the plan says why."""

import os
import shutil

import pytest

TRAINED = ["clean", "measure", "train from 0", "epoch 1", "epoch 2", "epoch 3", "draw", "tell"]


@pytest.fixture
def finished(project):
    assert project.run() == TRAINED
    return project


def stale(project, **options):
    """The nodes that the plan has as anything but fine."""
    return {k: v for k, v in project.plan(**options).items() if v[0] not in ("up to date", "not needed")}


def test_a_second_run_does_nothing(finished):
    assert stale(finished) == {}
    assert finished.run() == []


def test_a_changed_parameter_reruns_what_takes_it_and_what_follows(finished):
    change = {"train": {"lr": 0.25}}
    planned = finished.plan(params=change)
    assert planned["clean"][0] == "up to date"
    assert planned["measure"] == ("run", "feeds training.train")
    assert planned["train"] == ("run", "train.lr: 0.5 -> 0.25")
    assert planned["draw"] == ("if changed", "runs if weights comes out different")
    assert planned["tell"] == ("if changed", "runs if weights, history comes out different")
    assert finished.run(params=change) == [*TRAINED[1:]]
    assert finished.run(params=change) == []
    assert finished.run()[1] == "train from 0"  # back again: anew


def test_a_changed_parameter_of_a_late_node_reruns_it_alone(finished):
    assert finished.run(params={"tell": {"title": "good evening"}}) == ["tell"]


def test_parameters_that_never_change_a_result_rerun_nothing(finished):
    assert finished.run(params={"runtime": {"workers": 3}}) == []
    assert finished.run(params={"train": {"log_every": 7}}) == []


def test_an_edited_comment_docstring_or_layout_reruns_nothing(finished):
    finished.edit("helper.py", "# halves, or so", "# twice, or so\n")
    finished.edit("helper.py", "Takes a step.", "Takes one step, see toy.nodes and more.")
    finished.edit("helper.py", '"""Helps."""', '"""Helps a lot."""')
    assert stale(finished) == {}
    assert finished.run() == []


def test_an_edited_line_in_a_lazily_imported_helper_reruns_what_reaches_it(finished):
    finished.edit("helper.py", "return weight + lr * FACTOR", "return weight - lr * FACTOR")
    assert finished.plan()["train"] == ("run", "code of toy.helper:step")
    assert stale(finished).keys() == {"measure", "train", "draw", "tell"}
    assert finished.run()[:2] == ["measure", "train from 0"]
    assert finished.run() == []


def test_an_edited_constant_that_a_helper_reads_counts(finished):
    finished.edit("helper.py", "FACTOR = 2.0", "FACTOR = 4.0")
    assert finished.plan()["train"] == ("run", "code of toy.helper:FACTOR")


def test_an_edited_neighbour_reruns_nothing(finished):
    finished.edit("helper.py", "return 1", "return 2")
    assert stale(finished) == {}


def test_a_touched_file_reruns_nothing(finished):
    for name in ("data/first/table.csv", "source.csv", "data/first/weights.safetensors"):
        os.utime(finished.folder / name)
    assert stale(finished) == {}
    assert finished.run() == []


def test_a_changed_source_file_reruns_from_there(finished):
    (finished.folder / "source.csv").write_text("x\n1\n2\n6\n")
    planned = finished.plan()
    assert planned["clean"] == ("run", "input source changed")
    assert planned["train"][0] == "if changed"
    assert planned["measure"] == ("if changed", "feeds training.train")
    assert finished.run() == TRAINED


def test_an_input_remade_byte_for_byte_stops_the_rerun(finished):
    (finished.folder / "source.csv").write_text("x\n1\n2\n3\n1000\n")  # above the limit: clean drops it
    assert finished.run() == ["clean"]


def test_each_node_is_fingerprinted_and_decided_once(project, monkeypatch):
    import ssdd.lineage.plan as plan_module
    import ssdd.lineage.runner as runner_module
    from ssdd.lineage.code_hashes import CodeHasher

    hashed, decided = [], []
    hash_code, decide = CodeHasher.hash, plan_module.decide

    def hash_and_count(self, function):
        hashed.append(function.__name__)
        return hash_code(self, function)

    def decide_and_count(node, *arguments):
        decided.append(node.short_name)
        return decide(node, *arguments)

    monkeypatch.setattr(CodeHasher, "hash", hash_and_count)
    for module in (plan_module, runner_module):
        monkeypatch.setattr(module, "decide", decide_and_count)
    nodes = ["clean", "draw", "measure", "tell", "train"]
    assert project.run() == TRAINED
    assert sorted(hashed) == nodes
    # once in the plan, and once more where an input had to be made first
    assert sorted(decided) == sorted([*nodes, "draw", "tell", "train"])
    hashed.clear()
    decided.clear()
    assert project.run() == []
    assert (sorted(hashed), sorted(decided)) == (nodes, nodes)


def test_an_input_altered_during_the_run_is_not_taken_for_that_of_the_plan(finished):
    altering = (
        'note("clean")\n    from pathlib import Path\n    Path("data/first/weights.safetensors").write_bytes(b"x")'
    )
    finished.edit("nodes.py", 'note("clean")', altering)
    (finished.data / "figure.png").unlink()
    with pytest.raises(ValueError, match=r"expected 'weights' as .* made it"):
        finished.run(node_names=["data.clean", "draw"])


def test_one_byte_changed_in_an_output_remakes_it(finished):
    path = finished.data / "weights.safetensors"
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    planned = finished.plan()
    assert planned["train"] == ("resume", "weights was modified")
    assert finished.run() == ["measure", "train from 3"]  # its state is whole; what follows is unchanged
    assert path.read_bytes() == intact


def test_one_byte_changed_behind_the_clock_is_seen(finished, monkeypatch):
    monkeypatch.setattr("ssdd.lineage.content_hashes._SETTLED_NS", 0)
    path = finished.data / "table.csv"
    long_ago = (1_600_000_000, 1_600_000_000)
    os.utime(path, long_ago)
    finished.run()
    path.write_text("x\n1\n2\n4\n")
    os.utime(path, long_ago)  # same size, same mtime
    assert finished.run() == ["clean"]


def test_a_deleted_figure_is_drawn_again_alone(finished):
    (finished.data / "figure.png").unlink()
    assert stale(finished) == {"draw": ("run", "missing figure")}
    assert finished.run() == ["draw"]


def test_raised_epochs_continue_and_lowered_ones_start_anew(finished):
    more, fewer = {"train": {"epochs": 5}}, {"train": {"epochs": 2}}
    assert finished.plan(params=more)["train"] == ("continue", "train.epochs: 3 -> 5")
    assert finished.run(params=more) == ["measure", "train from 3", "epoch 4", "epoch 5", "draw", "tell"]
    assert finished.plan(params=fewer)["train"] == ("run", "train.epochs: 5 -> 2")
    assert finished.run(params=fewer)[1:4] == ["train from 0", "epoch 1", "epoch 2"]


def test_raised_epochs_with_another_change_start_anew(finished):
    both = {"train": {"epochs": 5, "lr": 0.1}}
    assert finished.plan(params=both)["train"] == ("run", "train.lr: 0.5 -> 0.1; train.epochs: 3 -> 5")
    assert finished.run(params=both)[1] == "train from 0"


def test_force_reruns_everything_anew(finished):
    from ssdd.lineage.runner import LineageRunner

    assert {action for action, _ in finished.plan(force=True).values()} == {"run"}
    assert finished.run(runner=LineageRunner(force=True)) == TRAINED


def test_a_changed_catalog_argument_reruns_its_maker(finished):
    catalog = finished.folder / "conf/base/catalog.yml"
    catalog.write_text(catalog.read_text().replace('/table.csv"', '/table.csv", save_args: {float_format: "%.2f"}'))
    assert finished.plan()["clean"] == ("run", "catalog entry table changed")
    assert finished.plan()["measure"][0] == "if changed"


def test_another_version_of_a_package_reruns_what_reaches_it(finished, monkeypatch):
    import ssdd.lineage.packages as packages

    installed = packages.installed
    before = installed("numpy")
    monkeypatch.setattr(packages, "installed", lambda name: "99.0" if name == "numpy" else installed(name))
    assert finished.plan()["train"] == ("run", f'package numpy: "{before}" -> "99.0"')
    assert finished.plan()["clean"][0] == "up to date"
    monkeypatch.setattr(packages, "installed", lambda name: f"{before}+cu1" if name == "numpy" else installed(name))
    assert stale(finished) == {}  # another build of the same release


def test_a_notebook_does_not_record_code_that_it_did_not_run(finished):
    finished.edit("helper.py", "# halves, or so", "# twice")
    assert finished.run(again=False) == []
    finished.edit("helper.py", "lr * FACTOR", "lr / FACTOR")
    with pytest.raises(ValueError, match=r"toy.helper:step was edited after .* restart the kernel"):
        finished.run(again=False)
    assert finished.run()[1] == "train from 0"
    assert finished.run(again=False) == []


def test_part_of_a_pipeline(finished):
    shutil.rmtree(finished.data)
    assert finished.run(tags=["early"]) == ["clean"]
    assert finished.run(to_nodes=["training.train"]) == TRAINED[1:6]
    assert finished.run(from_nodes=["draw"]) == ["draw"]
    assert finished.run() == ["tell"]
    with pytest.raises(ValueError, match=r"weights.*run a pipeline that makes 'weights'"):
        finished.run(from_nodes=["draw"], params={"run_name": "second"})


def test_a_parameter_that_is_no_number_equals_itself(finished):
    nan = {"tell": {"title": float("nan")}}
    assert finished.run(params=nan) == ["tell"]
    assert finished.run(params=nan) == []


def test_runs_are_kept_apart_and_an_environment_counts_as_parameters(finished):
    assert finished.run(params={"run_name": "second"}) == TRAINED
    assert finished.run(env="other")[1] == "train from 0"
    assert finished.run(params={"run_name": "second"}) == []


def test_a_run_name_stays_in_its_folder(finished):
    for name in ("../x", "a/b", "..", ".hidden", "", "a b", "x" * 101):
        with pytest.raises(ValueError, match="run_name"):
            finished.run(params={"run_name": name})


def test_a_plain_runner_is_refused(finished):
    from kedro.runner import SequentialRunner, ThreadRunner

    from ssdd.lineage.runner import LineageRunner

    assert issubclass(LineageRunner, SequentialRunner)
    with pytest.raises(ValueError, match="this project's own runner"):
        finished.run(runner=ThreadRunner())


@pytest.mark.parametrize(("written", "file"), [("", "weights"), ("@last", "weights"), ("@best", "weights_best")])
def test_starting_from_another_run_leaves_the_ancestry_out(finished, written, file):
    from ssdd.lineage.stamps import read_stamp

    params = {"run_name": "second", "teacher": f"first{written}"}
    assert finished.run(params=params) == ["draw", "tell"]
    assert "no history" in (finished.folder / "data/second/summary.txt").read_text()
    stamp = read_stamp(finished.folder / "data/second/summary.txt")
    assert stamp.about["given"] == {"weights": f"teacher=first{written}"}
    assert stamp.about["files"]["weights"] == f"../first/{file}.safetensors"
    assert stamp.identity.inputs["weights"] == read_stamp(finished.data / f"{file}.safetensors").sha256
    assert finished.run(params=params) == []


def test_starting_from_a_file(finished, tmp_path):
    file = tmp_path / "given.safetensors"
    shutil.copy(finished.data / "weights.safetensors", file)
    assert finished.run(params={"run_name": "second", "teacher": str(file)}) == ["draw", "tell"]
    file.write_bytes(b"\x80\x04pickle")
    with pytest.raises(Exception, match="expected a safetensors file"):
        finished.run(params={"run_name": "third", "teacher": str(file)})


def test_a_starting_point_that_is_not_there_is_named(finished):
    with pytest.raises(ValueError, match="no run is called 'frist'; did you mean 'first'"):
        finished.run(params={"teacher": "frist"})
    with pytest.raises(ValueError, match=r"none at 'some/where.safetensors'"):
        finished.run(params={"teacher": "some/where.safetensors"})
    with pytest.raises(ValueError, match="expected <run>, <run>@last or <run>@best"):
        finished.run(params={"teacher": "first@worst"})
    with pytest.raises(ValueError, match="expected <run>, <run>@last or <run>@best"):
        finished.run(params={"teacher": "first@"})
