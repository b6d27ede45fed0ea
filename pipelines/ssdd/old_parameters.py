"""Old names of parameters, which keep working for one release, with a warning."""

import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

OLD_NAMES = {"judges": "pretrained_networks"}  # old name of a group -> present name; each entry stays for one release


def rename_old_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the parameters under their present names; a group's old name still works, with a warning.

    A value under the old name replaces the one under the new name: conf/base states every group, so only the old name
    can be the user's.
    """
    renamed = {name: value for name, value in parameters.items() if name not in OLD_NAMES}
    for old in [name for name in parameters if name in OLD_NAMES]:
        new = OLD_NAMES[old]
        log.warning("the parameter group %r is now called %r: the old name ends with the next release", old, new)
        renamed[new] = _merge(renamed.get(new), parameters[old])
    return renamed


def _merge(below: Any, above: Any) -> Any:
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{name: _merge(below.get(name), value) for name, value in above.items()}}
