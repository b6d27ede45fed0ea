"""The parameters of a command line, `name=value,name=value`: text stays as it is written, all else is read as YAML.

YAML would turn a run's name `1e5` into a number and a folder `2024` too, and Kedro ends a value at every comma. Here a
parameter that is a text by its type takes what is written, letter by letter. It may stand in quotes, as in YAML; `null`
alone means none. A comma ends a value only where a name and `=` follow, and never in quotes.
"""

import re
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError

_QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')"""
# a quoted value, or one that runs to the end or to a comma before the next name
_VALUE = re.compile(rf"\s*(?P<value>{_QUOTED}|.*?)\s*(?:,(?=\s*[A-Za-z_][\w.-]*\s*=)|,?\s*\Z)", re.DOTALL)
_NAME = re.compile(r"\s*(?P<name>[^=,]*?)\s*=")


def read_params(
    written: Sequence[str],
    kinds: Mapping[str, Any],
    texts: Sequence[str] = (),
    place: Callable[[str, str], str] = lambda name, value: value,
) -> dict[str, Any]:
    """Reads the parameters of a command line.

    Args:
        written: the values of `--params`; of a parameter that is given twice, the last one counts.
        kinds: name of a group -> its type.
        texts: names of single parameters that are texts.
        place: turns the text of a parameter (name, value) into the one to use, such as a path from another folder.

    Returns:
        nested mappings. A text is written so that OmegaConf, which reads them next, leaves it as it is.

    Raises:
        ValueError: an item is not `name=value`, or the value is not YAML.
    """
    items = [OmegaConf.create({})]
    for name, value in (item for text in written for item in _split(text)):
        if name in texts or _is_text(name, value, kinds):
            items.append(OmegaConf.create({}))
            text = _text(name, value)
            OmegaConf.update(items[-1], name, None if text is None else _literal(place(name, text)))
        else:
            items.append(_read_value(name, value))
    content = OmegaConf.to_container(OmegaConf.merge(*items))
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items()}


def _split(text: str) -> Iterator[tuple[str, str]]:
    place = 0
    while text[place:].strip(", "):
        name = _NAME.match(text, place)
        if name is None or not name["name"]:
            raise ValueError(f"expected --params name=value,name=value, got {text[place:]!r}: write name=value")
        value = _VALUE.match(text, name.end())
        assert value is not None  # `.*?` followed by the end matches any text
        yield name["name"], value["value"]
        place = value.end()


def _read_value(name: str, value: str) -> DictConfig:
    try:
        return OmegaConf.from_dotlist([f"{name}={value}"])
    except (YAMLError, OmegaConfBaseException) as error:
        why = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ValueError(
            f"expected a value in YAML for {name}, got {value!r} ({why}): write a list as [a, b] and a mapping as "
            "{name: value}, with a space after each colon, and a text with such signs in quotes"
        ) from error


def _text(name: str, value: str) -> str | None:
    if value == "null":
        return None
    if re.fullmatch(_QUOTED, value, re.DOTALL):
        return str(OmegaConf.select(_read_value(name, value), name))
    return value


def _literal(value: str) -> str:
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # `${` begins a reference in OmegaConf


def _is_text(name: str, value: str, kinds: Mapping[str, Any]) -> bool:
    """Whether a parameter takes what is written as it is."""
    group, *parts = name.split(".")
    kind = kinds.get(group)
    for number, part in enumerate(parts):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return False
        if ".".join(parts[number:]) in getattr(kind, "texts", ()):
            return True
        if part not in kind.model_fields:
            return False
        kind = kind.model_fields[part].annotation
    choices = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    lists = any(get_origin(choice) is tuple for choice in choices)
    if lists and value.startswith("["):
        return False
    alone = [choice for choice in choices if choice is not type(None) and get_origin(choice) is not tuple]
    return bool(alone) and all(_takes_text(choice) for choice in alone)


def _takes_text(kind: Any) -> bool:
    return kind is str or (get_origin(kind) is Literal and all(isinstance(item, str) for item in get_args(kind)))
