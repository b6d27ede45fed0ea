"""The page of `ssdd lineage <file>`: the record of a file, and the tree of the files it was made from."""

from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ssdd.files import sha256_file
from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.stamps import SUFFIX, Stamp, read_stamp, stamp_path


def describe(path: str | Path) -> RenderableType:
    """Returns the lineage of an artefact, to print with rich.

    Args:
        path: the artefact, or its `.lineage.json`.

    Raises:
        ValueError: there is no such file, or no intact stamp next to it.
    """
    file = Path(path)
    file = file.with_name(file.name.removesuffix(SUFFIX))
    stamp = read_stamp(file)
    if stamp is None:
        what = "its stamp is damaged" if stamp_path(file).exists() else f"nothing at {stamp_path(file)}"
        raise ValueError(f"expected {file} to be an artefact of a run with its stamp beside it: {what}")
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    for name, value in facts(file, stamp).items():
        table.add_row(name, Text(value))
    tree = Tree(f"[bold]{file.name}[/] from {stamp.node}")
    _grow(tree, stamp, file, set())
    return Group(table, Text(), tree)


def facts(file: Path, stamp: Stamp) -> dict[str, str]:
    """Returns the content of a stamp as lines for the reader."""
    about = stamp.about
    same = "intact" if Hashes().of(file) == stamp.sha256 else "MODIFIED since, or missing"
    commit = about.get("commit") or about.get("no_commit") or "not in a git repository"
    modules = {name.partition(":")[0] for name in stamp.identity.code}
    when = f"{about.get('started')}, took {about.get('seconds')} s"
    return {
        "file": f"{file} ({same})",
        "sha256": stamp.sha256,
        "made by": f"{stamp.node}, {stamp.identity.function}",
        "run": str(about.get("run")),
        "command": str(about.get("command")),
        "commit": commit + (" with uncommitted changes" if about.get("dirty") else ""),
        "started": f"{when} ({about.get('action')}: {'; '.join(about.get('why', []))})",
        "machine": ", ".join(_machine(about.get("machine", {}))),
        "packages": _pairs(about.get("packages", {}), " "),
        "parameters": _by_group({**stamp.identity.parameters, **stamp.extends, **about.get("neutral", {})}),
        "code": f"{len(stamp.identity.code)} definitions in {len(modules)} modules",
        "fingerprint": stamp.identity.fingerprint,
        "inputs": "\n".join(_inputs(stamp)) or "none",
    }


def _machine(machine: dict[str, Any]) -> list[str]:
    gpus = machine.get("gpu") or ["no GPU"]
    return [str(machine.get("cpu")), f"{machine.get('cores')} cores", *gpus, str(machine.get("platform"))]


def _pairs(content: dict[str, Any], sign: str) -> str:
    return ", ".join(f"{key}{sign}{value}" for key, value in content.items()) or "none"


def _by_group(parameters: dict[str, Any]) -> str:
    groups: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        groups.setdefault(name.partition(".")[0], {})[name] = value
    return "\n".join(_pairs(group, "=") for group in groups.values()) or "none"


def _inputs(stamp: Stamp) -> list[str]:
    files, given = stamp.about.get("files", {}), stamp.about.get("given", {})
    lines = []
    for name, content in stamp.identity.inputs.items():
        where = f" {files[name]}" if name in files else ""
        how = f" (given: {given[name]})" if name in given else ""
        lines.append(f"{name} {content[:16]}{where}{how}")
    return lines


def _grow(tree: Tree, stamp: Stamp, artefact: Path, shown: set[tuple[str, str]]) -> None:
    """Adds the inputs of an artefact, with their own inputs below them."""
    # Most stages read the same few checkpoints: the inputs of each node are spelt out once, or the tree would grow
    # with every path through the pipeline.
    shown.add((stamp.node, stamp.identity.fingerprint))
    files = stamp.about.get("files", {})
    for name, content in stamp.identity.inputs.items():
        file = artefact.parent / files[name] if name in files else None
        before = read_stamp(file) if file is not None else None
        if file is None:
            tree.add(f"{name}: in memory")
        elif before is None:
            tree.add(f"{name}: {file.name}{_mark(file, content)}, not made by a run")
        else:
            again = (before.node, before.identity.fingerprint) in shown
            label = f"{name}: {file.name}{_mark(file, content)} from {before.node}{', as above' if again else ''}"
            branch = tree.add(label)
            if not again:
                _grow(branch, before, file, shown)


def _mark(file: Path, content: str) -> str:
    if file.is_file() and sha256_file(file) != content:
        return " [red](now other content)[/]"
    return "" if file.exists() else " [red](gone)[/]"
