"""`--model RUN`, `RUN@last`, `RUN@best`: which file of which stage."""

from pathlib import Path

import pytest
import yaml

from ssdd.model_files import STAGES, find_model

CATALOG = Path(__file__).parents[2] / "conf/base/catalog.yml"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two runs: `whole` has come to the end, `half` to stage 1, where nothing was the best yet."""
    (tmp_path / "pyproject.toml").write_text('[tool.kedro]\npackage_name = "ssdd"\n')
    for name in [f"whole/models/{stage}{best}" for stage in STAGES for best in ("", "_best")] + [
        "half/models/encoder",
        "half/models/encoder_best",
        "half/models/pretrained",
    ]:
        file = tmp_path / f"data/{name}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "data/empty").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path


def test_the_stages_are_the_catalogs():
    catalog = yaml.safe_load(CATALOG.read_text())
    for stage in STAGES:
        for best in ("", "_best"):
            assert catalog[stage + best]["filepath"] == f"${{_run}}/models/{stage}{best}.safetensors"


@pytest.mark.parametrize(
    ("said", "file"),
    [
        ("whole", "whole/models/distilled"),
        ("whole@last", "whole/models/distilled"),
        ("whole@best", "whole/models/distilled_best"),
        ("half", "half/models/pretrained"),
        ("half@best", "half/models/encoder_best"),
    ],
)
def test_a_run_means_its_last_stage(project, said, file):
    assert Path(find_model(said)) == project / f"data/{file}.safetensors"


@pytest.mark.parametrize("said", ["sdvae", "owner/name", "no/such.safetensors", "x.safetensors"])
def test_other_names_are_left_alone(project, said):
    assert find_model(said) == said


def test_a_file_comes_before_a_run(project):
    Path("whole").mkdir()
    assert find_model("whole") == "whole"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("whale", ["no run of that name", "did you mean 'whole'?"]),
        ("whole@first", ["expected <run>, <run>@last or <run>@best, got 'whole@first'"]),
        ("whole@", ["got 'whole@'"]),
        ("empty", ["the run 'empty' has no last model yet"]),
        ("empty@best", ["has no best model yet"]),
    ],
)
def test_mistakes_are_named(project, said, words):
    with pytest.raises(ValueError, match=r"expected|no run") as caught:
        find_model(said)
    for word in words:
        assert word in str(caught.value)


def test_outside_a_project_there_are_no_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="outside a project"):
        find_model("whole")


@pytest.mark.parametrize("command", ["reconstruct", "encode", "z-stats", "info"])
def test_commands_take_runs(ssdd, small, project, checkpoint, command):
    file = project / "data/whole/models/distilled_best.safetensors"
    file.write_bytes(checkpoint.read_bytes())
    out = {"reconstruct": "out", "encode": "z.safetensors", "z-stats": "stats.json"}
    options = ["--im-size", 16] if command == "z-stats" else []
    arguments = [small, "-o", project / out[command], "--model"] if command in out else []
    status, _, error = ssdd(command, *arguments, "whole@best", *options)
    assert status == 0, error
    assert f"whole@best is {file}" in error
    if command == "encode":
        status, _, error = ssdd("decode", project / "z.safetensors", "-o", project / "out", "--model", "whole@best")
        assert status == 0, error
        assert len(list((project / "out").rglob("*.png"))) == 3
    status, _, error = ssdd(command, *arguments, "whale@best", *options)
    assert status == 1
    assert error.splitlines()[-1].startswith("Error: there is no file or folder 'whale@best', and no run")


@pytest.fixture
def packaged(tmp_path_factory, monkeypatch, checkpoint):
    """The folder of the models that come with the package, with a `demo` in it."""
    from ssdd import packaged

    monkeypatch.setattr(packaged, "FOLDER", tmp_path_factory.mktemp("packaged"))
    (packaged.FOLDER / "demo.safetensors").write_bytes(checkpoint.read_bytes())
    return packaged.FOLDER


def test_a_packaged_model_comes_after_a_run_and_a_file_of_its_name(project, packaged):
    assert Path(find_model("demo")) == packaged / "demo.safetensors"
    file = project / "data/demo/models/distilled.safetensors"
    file.parent.mkdir(parents=True)
    assert Path(find_model("demo")) == packaged / "demo.safetensors"  # that run has only begun
    file.touch()
    assert Path(find_model("demo")) == file
    Path("demo").touch()
    assert find_model("demo") == "demo"


def test_a_missing_packaged_model_is_named_and_wrong_names_are_told_of_it(project, packaged):
    with pytest.raises(ValueError, match=r"no run of that name in .*models that come with ssdd: demo$"):
        find_model("dmo")
    (packaged / "demo.safetensors").unlink()
    with pytest.raises(ValueError, match="comes with ssdd, but this installation has no"):
        find_model("demo")


@pytest.mark.parametrize("command", ["reconstruct", "encode", "z-stats", "info"])
def test_commands_take_packaged_models_anywhere(ssdd, small, packaged, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)  # outside a project
    out = {"reconstruct": "out", "encode": "z.safetensors", "z-stats": "stats.json"}
    options = ["--im-size", 16] if command == "z-stats" else []
    arguments = [small, "-o", out[command], "--model"] if command in out else []
    status, _, error = ssdd(command, *arguments, "demo", *options)
    assert status == 0, error
    assert f"demo is {packaged / 'demo.safetensors'}" in error
    if command == "encode":
        status, _, error = ssdd("decode", "z.safetensors", "-o", "out", "--model", "demo")
        assert status == 0, error
