"""Text parameters that look like numbers, dates, switches, lists or references: they stay as they are written.

The right value is the text itself; for other types, what YAML 1.1 makes of it.
"""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from ssdd.lineage.parameter_texts import read_params
from ssdd.parameters import DataParameters, EvaluateParameters, ModelParameters, RuntimeConfig, StageParameters
from ssdd.runs import check_run_name

KINDS = {
    "data": DataParameters,
    "finetune": StageParameters,
    "evaluate": EvaluateParameters,
    "model": ModelParameters,
    "runtime": RuntimeConfig,
}
TEXTS = [
    "1e5",
    "2024",
    "007",
    "0x10",
    "1_000",
    "1:30",
    "2024-01-01",
    "yes",
    "no",
    "true",
    "on",
    "~",
    ".inf",
    ".nan",
    "1.",
    "[a]",
    "{a:",
    "a:b",
    "#b",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "`a",
    "|",
    ">",
    "a=b",
    "C:\\x",
    "a\\",
    "${a}",
    "\\${a}",
    "$a",
    "???",
    "é",
    "画",
    'a"b',
    "it's",
    "NULL",
    "Null",
]
TEXTS += ["/a/b, 2024", "a, b, c", "{a: b}", "a: b", "a #b", "- a", "? a", "null value", "a\tb"]
NAMES = ["run_name", "teacher", "data.root", "data.hub", "data.options.column", "data.options.config", "model.encoder"]


def read(*written):
    """Reads parameters as the run does: OmegaConf resolves them next."""
    params = read_params(written, KINDS, ("run_name", "teacher"))
    return OmegaConf.to_container(OmegaConf.create(params), resolve=True)


def at(params, name):
    for key in name.split("."):
        params = params[key]
    return params


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_as_it_is(text, tally):
    for name in NAMES:
        params = read(f"{name}={text},runtime.workers=3")
        assert at(params, name) == text
        assert params["runtime"]["workers"] == 3
        assert at(read(f"runtime.workers=3, {name} = {text} "), name) == text
        tally("texts of parameters", tried=2, survived=2)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("'a,run_name=b'", "a,run_name=b"),
        ('"a,run_name=b"', "a,run_name=b"),
        ('" a "', " a "),
        ("''", ""),
        ("'null'", "null"),
        ("'it''s'", "it's"),
        ('"a\\"b"', 'a"b'),
        ("'a' or 'b'", "'a' or 'b'"),
        ('"', '"'),
        ("", ""),
        ("null", None),
    ],
)
def test_quotes_are_those_of_yaml(written, text):
    assert read(f"data.root={written},run_name=x") == {"data": {"root": text}, "run_name": "x"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("finetune.epochs=3", 3),
        ("finetune.optim.lr=1e-3", 0.001),
        ("finetune.precision=no", "no"),  # a choice of texts, of which YAML would make False
        ("finetune.loss.perceptual=none", "none"),
        ("finetune.compile=yes", True),
        ("finetune.eval_images=null", None),
        ("runtime.threads=auto", "auto"),
        ("runtime.threads=2", 2),
        ("evaluate.metrics=full", "full"),
        ("evaluate.metrics=[psnr, mse]", ["psnr", "mse"]),
        ("evaluate.teacher_steps=[8,1]", [8, 1]),
        ("data.options.max_pixels=100", 100),
        ("unknown.name=1", 1),
    ],
)
def test_other_types_are_read_as_yaml(written, value):
    found = at(read(f"{written},run_name=x"), written.partition("=")[0])
    assert (found, type(found)) == (value, type(value))


def test_the_last_of_two_values_counts():
    assert read("run_name=a", "run_name=b,data.root=x", "data.hub=y") == {
        "run_name": "b",
        "data": {"root": "x", "hub": "y"},
    }


@pytest.mark.parametrize("written", ["run_name", "=x", "run_name=a,=x"])
def test_an_item_without_a_name_is_refused(written):
    try:
        assert read(written) == {"run_name": "a,=x"}
    except ValueError as error:
        assert "name=value" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "written", ["a.b=[{sizes:[S]}]", "a.b=[{sizes: [S]", "a.b={x", "a.b=${oops", "a.b=[1,\t]: x", 'data.root="a\\qb"']
)
def test_a_value_that_is_not_yaml_is_named(written):
    name, _, value = written.partition("=")
    with pytest.raises(ValueError, match="with a space after each colon") as told:
        read(f"{written},run_name=x")
    assert f"expected a value in YAML for {name}, got {value!r} (" in str(told.value)


@pytest.mark.parametrize("name", [1e5, 2024, True, None])
def test_a_number_in_a_file_of_parameters_is_refused(name):
    with pytest.raises(ValueError, match="in quotes"):
        check_run_name(name)


def test_runs_and_folders_with_names_of_numbers(runs, tally):
    for folder in ("2024", "a, 2024"):
        root = runs.data.parent / folder
        root.mkdir()
        for number in range(4):
            Image.fromarray(np.full((32, 32, 3), 9 * number, np.uint8)).save(root / f"{number}.png")
    for name, folder in (("1e5", "2024"), ("0x10", "a, 2024")):
        settings = f"data.kind=folder,data.root={folder},runtime.progress=false"
        code, said = runs.run(name, "--to-nodes=prepare.prepare_images", settings=settings)
        assert code == 0, said
        assert (runs.data / name / "images/index.parquet").is_file()
        tally("texts of parameters", tried=2, survived=2)
    assert not (runs.data / "100000.0").exists()
    assert not (runs.data / "16").exists()


def test_a_run_with_the_name_of_a_number_is_a_model(tmp_path, model):
    from ssdd.model_files import find_model

    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "data/1e5/models").mkdir(parents=True)
    (tmp_path / "data/1e5/models/distilled.safetensors").write_bytes(model.read_bytes())
    assert find_model("1e5", tmp_path) == str(tmp_path / "data/1e5/models/distilled.safetensors")
