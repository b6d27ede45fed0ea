"""Notices code that was edited after this process had loaded it, so that what is recorded is what has run.

Hashes are taken from the files; a notebook that stays open goes on running what it imported. The first look
at a loaded definition is remembered, and a later look that finds another hash for the same module tells.
"""

import sys
from collections.abc import Mapping

_SEEN = "__lineage_seen__"  # kept in the module itself: it goes when the module goes


def remember(code: Mapping[str, str]) -> None:
    """Remembers the hashes of the definitions (`module:name` -> hash) whose modules are loaded."""
    for key, content in code.items():
        _seen(key).setdefault(key, content)


def check_loaded(code: Mapping[str, str]) -> None:
    """Refuses to run definitions that were edited since they were loaded.

    Raises:
        ValueError: names the first of them.
    """
    for key, content in code.items():
        if _seen(key).get(key, content) != content:
            raise ValueError(
                f"{key} was edited after this process had loaded it: restart the kernel, so that what runs "
                "is what is written down"
            )


def _seen(key: str) -> dict[str, str]:
    module = sys.modules.get(key.partition(":")[0])
    return {} if module is None else vars(module).setdefault(_SEEN, {})
