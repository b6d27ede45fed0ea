"""The table of published parameters in the manual: names exist and are typed, defaults are those of conf."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from kedro.config import OmegaConfigLoader
from pydantic import BaseModel

from ssdd import settings
from ssdd.pipeline_registry import register_pipelines

pytestmark = pytest.mark.filterwarnings("ignore:register_new_resolver")  # Kedro's business with OmegaConf

ROOT = Path(__file__).parents[1]
STAGES = ("train_encoder", "pretrain", "finetune", "distill")
PUBLISHED = ["run_name", "task", "im_size", "encoder", "decoder", "checkpoint", "aug_scale", "epochs", "lr", "limit"]
PUBLISHED += ["encoder_train", "encoder_checkpoint", "distill_teacher", "gan", "log_freq", "eval_freq", "compile"]
PUBLISHED += ["data root", "batch size", "sampler steps, while training", "sampler steps, evaluation"]


def rows() -> dict[str, tuple[str, str]]:
    """Published name -> what stands in the other two columns."""
    text = (ROOT / "pipelines/docs/recipe.md").read_text(encoding="utf-8")
    table = text.split("| published | here | default |\n|---|---|---|\n")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {name: (here, default) for name, here, default in cells}


def names(here: str) -> list[str]:
    """The parameters that a cell names."""
    return [name for name in re.findall(r"`([^`]+)`", here) if not name.startswith("--")]


@pytest.fixture(scope="module")
def values() -> dict:
    """What `--env=imagenet` gives."""
    loader = OmegaConfigLoader(
        str(ROOT / "conf"), env="imagenet", **{**settings.CONFIG_LOADER_ARGS, "default_run_env": "imagenet"}
    )
    return loader["parameters"]


@pytest.fixture(scope="module")
def types() -> dict[str, type]:
    """Top parameter -> its type, from the functions that take it."""
    found: dict[str, type] = {}
    for node in register_pipelines()["__default__"].nodes:
        hints = get_type_hints(node.func, localns={"pandas": __import__("pandas")})
        arguments = node._inputs if isinstance(node._inputs, list) else [node._inputs]
        for argument, name in zip(node.func.__code__.co_varnames, arguments, strict=False):
            if name.startswith("params:") and "." not in name:
                found[name.removeprefix("params:")] = hints[argument]
    return found


def typed_value(types: dict[str, type], values: dict, name: str) -> object:
    """Returns a parameter after validation by its type, as the nodes get it."""
    top, *rest = name.split(".")
    if not rest:
        assert name in values
        return values[name]
    if name == "data.root":  # null is for the user to replace, so the type does not take it
        assert "root" in types["data"].model_fields
        return values["data"]["root"]
    found: object = types[top](**values[top])
    for key in rest:
        assert isinstance(found, BaseModel)
        assert key in type(found).model_fields, f"{name}: {type(found).__name__} has no {key}"
        found = getattr(found, key)
    return list(found) if isinstance(found, tuple) else found


def expected(default: str) -> dict[str, object]:
    """`300; finetune: 200` -> the value of each stage; `` is that of the others."""
    first, _, others = default.partition(";")
    parsed = {"": yaml.safe_load(first)}
    if others:
        parsed |= {stage.strip(): yaml.safe_load(v) for stage, v in (part.split(":") for part in others.split(","))}
    return parsed


def test_every_published_parameter_has_a_row():
    assert set(PUBLISHED) <= set(rows())


@pytest.mark.parametrize("row", [name for name, (here, _) in rows().items() if names(here)])
def test_names_and_defaults_are_true(row, types, values):
    here, default = rows()[row]
    wanted = expected(default)
    assert set(wanted) <= {"", *STAGES}
    for name in names(here):
        if name == "train_encoder":
            assert name in STAGES
            continue
        for full in [name.replace("STAGE", stage) for stage in STAGES] if "STAGE" in name else [name]:
            value = typed_value(types, values, full)
            assert value == wanted.get(full.split(".")[0], wanted[""]), full


def test_provided_checkpoints_are_those_of_the_settings():
    models = {"encoder_checkpoint", "checkpoint", "teacher", "student"}
    assert models | {"reference_statistics"} == set(settings.RULES.replaceable)
