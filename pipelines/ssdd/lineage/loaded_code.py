"""Notices code that was edited after this process had loaded it, so that a stamp records the code that ran.

Hashes are taken from the files, but a notebook that stays open goes on running the code that it imported. The
first hash of each loaded definition is remembered; a different hash later means that its file was edited since.
"""

import sys
from collections.abc import Mapping

# Kept in the module object itself and not in a table here: it disappears when the module is reloaded, and then the new
# code is what runs.
_FIRST_HASHES = "__lineage_hashes__"


def remember(code: Mapping[str, str]) -> None:
    """Remembers the hashes of the definitions (`module:name` -> hash) whose modules are loaded."""
    for key, content in code.items():
        _first_hashes(key).setdefault(key, content)


def check_loaded(code: Mapping[str, str]) -> None:
    """Refuses to run definitions that were edited since they were loaded.

    Raises:
        ValueError: names the first of them.
    """
    for key, content in code.items():
        if _first_hashes(key).get(key, content) != content:
            raise ValueError(
                f"{key} was edited after this process had loaded it: restart the kernel, so that the "
                "stamp records the code that runs"
            )


def _first_hashes(key: str) -> dict[str, str]:
    module = sys.modules.get(key.partition(":")[0])
    return {} if module is None else vars(module).setdefault(_FIRST_HASHES, {})
