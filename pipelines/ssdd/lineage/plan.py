"""The plan of a run: for each node, whether it would run and why."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from rich.table import Table

from ssdd.lineage.catalog_entries import base_name
from ssdd.lineage.fingerprint import PENDING, Fingerprints, Ingredients
from ssdd.lineage.parameter_values import differences, digest, only_raised
from ssdd.lineage.stamps import Identity, Stamp, read_stamp
from ssdd.lineage.state_folders import state_kind, state_path

Action = Literal["up to date", "run", "resume", "continue", "if changed", "not needed"]
_COLOURS = {"up to date": "green", "not needed": "green", "if changed": "yellow", "run": "red"}


@dataclass(frozen=True)
class Decision:
    """The decision about one node.

    Attributes:
        node: the node's name.
        action: `if changed` runs only if an input comes out different; `resume` continues an interrupted stage, and
            `continue` a finished one with a higher value such as `epochs`; `not needed` is a node whose outputs stay in
            memory and are not used.
        reasons: why.
        pending: inputs that an earlier node may still change; while there are any, the decision is not final.
    """

    node: str
    action: Action
    reasons: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        """Whether the node is sure to run."""
        return self.action in ("run", "resume", "continue")

    @property
    def may_run(self) -> bool:
        """Whether the node runs, or may do so when its inputs are known."""
        return self.action not in ("up to date", "not needed")

    @property
    def why(self) -> str:
        """The reasons in a line."""
        return "; ".join(self.reasons)


def decide(
    node: Node,
    fingerprints: Fingerprints,
    folder: Path,
    force: bool = False,
    pending: frozenset[str] = frozenset(),
) -> Decision:
    """Decides about one node.

    Args:
        fingerprints: the ingredients of nodes.
        folder: `data/<run_name>`, with the folders of resume states.
        force: run it in any case.
        pending: datasets whose content is not known yet.

    Raises:
        ValueError: an input is missing or cannot be followed.
    """
    now = fingerprints.of(node, pending)
    outputs = fingerprints.output_files(node)
    if force:
        return Decision(node.name, "run", ["forced"], now.pending)
    if not outputs:
        why = "its result is kept in memory only" if node.outputs else "it has no outputs"
        return Decision(node.name, "run", [why], now.pending)
    stamps, reasons = _check_outputs(outputs, fingerprints)
    stale: list[str] = []
    raised: list[str] = []
    for stamp in stamps:
        stale += _changes(stamp.identity, now.identity)
        if stamp.extends != now.parameters.extends:
            changed = differences(stamp.extends, now.parameters.extends)
            (raised if only_raised(stamp.extends, now.parameters.extends) else stale).extend(changed)
    reasons += list(dict.fromkeys(stale + raised))  # the stamps of one node mostly give the same ones
    if reasons:
        return Decision(node.name, _how(node, now, folder, bool(raised)), reasons, now.pending)
    if now.pending:
        why = f"runs if {', '.join(now.pending)} comes out different"
        return Decision(node.name, "if changed", [why], now.pending)
    return Decision(node.name, "up to date")


def plan(pipeline: Pipeline, fingerprints: Fingerprints, folder: Path, force: bool = False) -> list[Decision]:
    """Decides about every node of a pipeline, as far as it is known before any of them runs."""
    decisions: dict[str, Decision] = {}
    pending: set[str] = set()
    for node in pipeline.nodes:
        decision = decide(node, fingerprints, folder, force, frozenset(pending))
        if not force and feeds_only(node, pipeline, fingerprints):
            decision = Decision(node.name, "not needed", [], decision.pending)
            undecided = bool(decision.pending)
        else:
            undecided = decision.may_run
        if undecided:
            pending |= {base_name(name) for name in node.outputs}
        decisions[node.name] = decision
    # In reverse order: the decision about a feeder needs the decisions about the nodes that it feeds.
    for node in reversed(pipeline.nodes):
        if decisions[node.name].action == "not needed":
            decisions[node.name] = _feeder_decision(node, pipeline, decisions)
    return list(decisions.values())


def feeds_only(node: Node, pipeline: Pipeline, fingerprints: Fingerprints) -> bool:
    """Whether a node is a feeder: all its outputs stay in memory and are inputs of other nodes."""
    return bool(node.outputs) and not fingerprints.output_files(node) and not set(node.outputs) & pipeline.outputs()


def as_table(decisions: list[Decision]) -> Table:
    """Returns the plan as a table: node, decision, why."""
    table = Table("node", "decision", "why", box=None, header_style="bold", pad_edge=False)
    for decision in decisions:
        colour = _COLOURS.get(decision.action, "cyan")
        table.add_row(decision.node, f"[{colour}]{decision.action}[/]", decision.why.replace("[", r"\["))
    return table


def _feeder_decision(node: Node, pipeline: Pipeline, decisions: dict[str, Decision]) -> Decision:
    """A node that only feeds others in memory runs if one of them does."""
    fed = [
        decisions[other.name]
        for other in pipeline.nodes
        if set(other.inputs) & set(node.outputs) and decisions[other.name].may_run
    ]
    if not fed:
        return decisions[node.name]
    action: Action = "run" if any(decision.runs for decision in fed) else "if changed"
    reasons = [f"feeds {', '.join(decision.node for decision in fed)}"]
    return Decision(node.name, action, reasons, decisions[node.name].pending)


def _check_outputs(outputs: dict[str, Path | None], fingerprints: Fingerprints) -> tuple[list[Stamp], list[str]]:
    """The stamps of a node's outputs, and a reason to run for each output that does not match its stamp."""
    stamps: list[Stamp] = []
    reasons: list[str] = []
    for name, path in outputs.items():
        content = fingerprints.hash_file(path)
        stamp = read_stamp(path) if path is not None else None
        if content is None:
            reasons.append(f"missing {name}")
        elif stamp is None:
            reasons.append(f"no intact stamp of {name}")
        elif stamp.sha256 != content:
            reasons.append(f"{name} was modified")
        if stamp is not None:  # even of a missing file: it shows what else has changed
            stamps.append(stamp)
    return stamps, reasons


def _how(node: Node, now: Ingredients, folder: Path, raised: bool) -> Action:
    """Whether a node that must run can go on from a state of its own."""
    if now.pending:
        return "run"  # without its inputs the node has no fingerprint to compare with the state's
    kind = state_kind(state_path(folder, node.name), now.identity.fingerprint, now.parameters.extends)
    if kind == "raised":
        return "continue"
    if kind == "same":
        return "continue" if raised else "resume"
    return "run"


def _changes(before: Identity, now: Identity) -> list[str]:
    found = []
    if before.function != now.function:
        found.append(f"function {before.function} -> {now.function}")
    found += differences(before.parameters, now.parameters)
    code = [key for key in sorted({*before.code, *now.code}) if before.code.get(key) != now.code.get(key)]
    if code:  # two names are enough to find the edit; a move of files would fill the screen
        more = f" and {len(code) - 2} more" if len(code) > 2 else ""
        found.append(f"code of {', '.join(code[:2])}{more}")
    for name in sorted({*before.inputs, *now.inputs}):
        if PENDING != now.inputs.get(name) != before.inputs.get(name):
            found.append(f"input {name} changed")
    found += [f"package {text}" for text in differences(before.packages, now.packages)]
    for name in sorted({*before.catalog, *now.catalog}):
        # By digest: a stamp read back from JSON has lists where the catalog may have tuples.
        if digest(before.catalog.get(name)) != digest(now.catalog.get(name)):
            found.append(f"catalog entry {name} changed")
    return found
