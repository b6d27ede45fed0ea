"""`ssdd lineage`: the record of a file, and of the files it was made from."""

import json
from pathlib import Path
from typing import Any

import click

from ssdd.commands import options


@click.command(short_help="Show the run that made a file, and the files it was made from.")
@click.argument("file", type=options.UserPath(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the stamps of the file and its ancestors as JSON.")
def lineage(file: Path, as_json: bool) -> None:
    """Show the run, commit, parameters, inputs, packages, machine and duration behind FILE.

    FILE is a result of a pipeline, below data/<run>/; its stamp lies next to it as FILE.lineage.json. Content that has
    changed since is marked.

    \b
    ssdd lineage data/quickstart/models/distilled.safetensors
    """
    from rich.console import Console

    from ssdd.lineage.lineage_tree import describe

    shown = describe(file)  # first, for JSON too: it raises where there is no stamp
    if as_json:
        # Letters are escaped, since a terminal that lacks one would make the text invalid.
        click.echo(json.dumps(_stamps(file), indent=2))
    else:
        Console().print(shown)


def _stamps(file: Path) -> dict[str, Any]:
    """File -> its stamp, and whether its content is intact; for the file, its inputs, their inputs, and so on."""
    from dataclasses import asdict
    from os.path import normpath

    from ssdd.lineage.content_hashes import Hashes
    from ssdd.lineage.stamps import SUFFIX, read_stamp

    file = file.with_name(file.name.removesuffix(SUFFIX))
    found: dict[str, Any] = {}
    pending = [file]
    while pending:
        artefact = pending.pop(0)
        stamp = read_stamp(artefact)
        if stamp is None or str(artefact) in found:
            continue
        intact = artefact.exists() and Hashes().of(artefact) == stamp.sha256
        found[str(artefact)] = {"intact": intact, **asdict(stamp)}
        pending += [Path(normpath(artefact.parent / name)) for name in stamp.about.get("files", {}).values()]
    return found
