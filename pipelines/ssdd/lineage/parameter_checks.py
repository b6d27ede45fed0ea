"""Refuses unknown parameters and environments before a run, and names the nearest known one.

Kedro checks a parameter when its node is about to run, hours into a pipeline, and ignores a misspelt group
altogether.
"""

import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from kedro.pipeline import Pipeline
from kedro.validation.type_extractor import TypeExtractor
from pydantic import BaseModel, TypeAdapter, ValidationError

from ssdd.lineage.parameter_values import NEUTRAL_PARAMETERS
from ssdd.suggestions import nearest


def check_environment(conf_source: Path, env: str | None) -> None:
    """Refuses an environment without a folder in the configuration.

    Raises:
        ValueError: there is none of that name.
    """
    if env and conf_source.is_dir() and not (conf_source / env).is_dir():
        known = sorted(item.name for item in conf_source.iterdir() if item.is_dir() and item.name[0] not in "._")
        raise ValueError(f"unknown env {env!r}{nearest(env, known)}")


def check_parameters(
    parameters: Mapping[str, Any], pipelines: Mapping[str, Pipeline], known: Iterable[str] = ()
) -> None:
    """Refuses parameters that no node takes and values that do not fit the nodes' types.

    Args:
        parameters: all of them, as configured and written on the command line.
        pipelines: every registered pipeline.
        known: names that the project reads elsewhere (parameters that provide a dataset).

    Raises:
        ValueError: one line for each parameter that is wrong.
    """
    taken = {name for pipeline in pipelines.values() for node in pipeline.nodes for name in node.inputs}
    wrong = []
    if "parameters" not in taken:  # a node that takes all parameters may read any name
        groups = {name.removeprefix("params:").partition(".")[0] for name in taken if name.startswith("params:")}
        names = sorted({*groups, *NEUTRAL_PARAMETERS, *known})
        wrong += [f"unknown parameter {name!r}{nearest(name, names)}" for name in parameters if name not in names]
    for name, kind in sorted(TypeExtractor(dict(pipelines)).extract_types_from_pipelines().items()):
        value = _look_up(parameters, name)
        if value is not None:
            wrong += _misfits(name, value, _without_none(kind))
    if wrong:
        raise ValueError("\n".join(wrong))


def _look_up(parameters: Mapping[str, Any], path: str) -> Any:
    value: Any = parameters
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _misfits(name: str, value: Any, kind: Any) -> list[str]:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        return [_message(name, kind, item) for item in error.errors()]
    return []


def _message(name: str, kind: Any, item: Any) -> str:
    path = ".".join([name, *(str(part) for part in item["loc"])])
    if item["type"] == "extra_forbidden":
        owner, _, _ = path.rpartition(".")
        fields = [f"{owner}.{field}" for field in _fields(kind, item["loc"][:-1])]
        return f"unknown parameter {path!r}{nearest(path, fields)}"
    if item["type"] == "missing":
        return f"missing parameter {path!r}"
    if item["type"] == "value_error":  # from a model's own check, whose message names the value itself
        return f"parameter {path!r}: {item['ctx']['error']}"
    message = item["msg"][:1].lower() + item["msg"][1:]
    hint = ": write it in quotes" if item["type"] == "string_type" else ""  # YAML made another type of it
    return f"parameter {path!r}: {message}, got {item['input']!r}{hint}"


def _without_none(kind: Any) -> Any:
    """`X` for `X | None` and `Optional[X]`, any other type unchanged."""
    if get_origin(kind) in (Union, types.UnionType):
        rest = [item for item in get_args(kind) if item is not type(None)]
        return rest[0] if len(rest) == 1 else kind
    return kind


def _fields(kind: Any, location: tuple[Any, ...]) -> list[str]:
    """The field names of the model at a location inside another model."""
    for part in location:
        if not (isinstance(kind, type) and issubclass(kind, BaseModel) and part in kind.model_fields):
            return []
        kind = _without_none(kind.model_fields[part].annotation)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
