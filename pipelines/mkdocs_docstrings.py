"""Docstrings of this project for the manual: two arguments that share a line (`a, b: text`) become two entries."""

import re
from typing import Any

from griffe import Docstring, Extension

_JOINT = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +.*)*)", re.MULTILINE)


class JointArguments(Extension):
    """Splits the shared lines of each docstring before it is parsed."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Takes every object that has been read."""
        if not obj.is_alias and isinstance(obj.docstring, Docstring):
            obj.docstring.value = _JOINT.sub(_apart, obj.docstring.value)


def _apart(found: re.Match[str]) -> str:
    first, *others = found[2].split(", ")
    return "\n".join([f"{found[1]}{first}: {found[3]}", *(f"{found[1]}{name}: see {first}" for name in others)])
