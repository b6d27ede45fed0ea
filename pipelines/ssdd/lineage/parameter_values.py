"""Parameters by value: their digest, their part in a fingerprint, and the differences of two sets.

Conventions:
    * the top-level groups in `NEUTRAL_PARAMETERS` never change a result and enter no fingerprint;
    * a typed model may name fields of its own in two class variables (dotted paths for nested fields):
      `neutral` - they never change the result (`log_every`);
      `extends` - a higher value only goes on from the end of a lower one (`epochs`).

    class Finetune(BaseModel, frozen=True, extra="forbid"):
        extends: ClassVar[tuple[str, ...]] = ("epochs",)
        neutral: ClassVar[tuple[str, ...]] = ("log_every",)
        epochs: int = 200
        log_every: int = 100
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

NEUTRAL_PARAMETERS = ("runtime", "run_name")


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The parameters that a node takes, as flat `group.key` -> plain value.

    Attributes:
        core: those that define the result.
        extends: those of which a higher value continues.
        neutral: the rest, kept for the reader.
    """

    core: dict[str, Any]
    extends: dict[str, Any]
    neutral: dict[str, Any]


def sort_parameters(inputs: Mapping[str, Any]) -> Parameters:
    """Sorts a node's parameter inputs (`params:group` or `parameters` -> value) into the three kinds."""
    found = Parameters({}, {}, {})
    for name, value in inputs.items():
        prefix = name.partition(":")[2]
        marks = dict(_marks(value, prefix))
        for path, leaf in flatten(plain(value), prefix).items():
            if path.partition(".")[0] in NEUTRAL_PARAMETERS:
                found.neutral[path] = leaf
            else:
                kind = next((kind for mark, kind in marks.items() if _under(path, mark)), "core")
                getattr(found, kind)[path] = leaf
    return found


def plain(value: Any) -> Any:
    """Returns the value as JSON types: models as mappings, whole floats as integers, paths as text."""
    if hasattr(type(value), "model_fields"):  # a pydantic model
        return {name: plain(getattr(value, name)) for name in type(value).model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)  # sets have no order that repeats
    # YAML reads `1` and `1.0` as different types, and a model may turn one into the other: they are one value. Above
    # 2**53 a float no longer stands for one integer.
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, keys joined by dots; an empty mapping and a list are leaves."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else key))
    return flat


def digest(value: Any) -> str:
    """Returns the SHA-256 of a plain value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns the differences of two flat mappings, one `key: old -> new` an entry."""
    found = []
    for key in sorted({*before, *now}):
        old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
        # By digest, since a value that is not a number is unequal even to itself.
        if old is _ABSENT or new is _ABSENT or digest(plain(old)) != digest(plain(new)):
            found.append(f"{key}: {_show(old)} -> {_show(new)}")
    return found


def only_raised(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether the keys are the same and every value is at least as high as before."""
    return before.keys() == now.keys() and all(
        (_number(before[key]) and _number(now[key]) and now[key] >= before[key]) or now[key] == before[key]
        for key in now
    )


_ABSENT = object()  # None is a value


def _show(value: Any) -> str:
    return "absent" if value is _ABSENT else json.dumps(value, ensure_ascii=False, default=str)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)  # True is an int in Python


def _under(path: str, mark: str) -> bool:
    return path == mark or path.startswith(f"{mark}.")


def _marks(value: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """The paths that a model, or a model inside it, declares as `extends` or `neutral`."""
    fields = getattr(type(value), "model_fields", None)
    if fields is None:
        children = list(value.items()) if isinstance(value, Mapping) else []
    else:
        for kind in ("extends", "neutral"):
            for name in getattr(type(value), kind, ()) if kind not in fields else ():
                yield (f"{prefix}.{name}" if prefix else name), kind
        children = [(name, getattr(value, name)) for name in fields]
    for name, child in children:
        yield from _marks(child, f"{prefix}.{name}" if prefix else str(name))
