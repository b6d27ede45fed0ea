"""What a run would do and why: a decision for each node."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node
from rich.table import Table

from ssdd.lineage.artefacts import base_name
from ssdd.lineage.fingerprint import PENDING, Fingerprints, Made
from ssdd.lineage.parameter_values import differences, digest, only_raised
from ssdd.lineage.running_node import state_kind, state_path
from ssdd.lineage.stamps import Identity, Stamp, read_stamp

Action = Literal["up to date", "run", "resume", "continue", "if changed", "not needed"]
_COLOURS = {"up to date": "green", "not needed": "green", "if changed": "yellow", "run": "red"}


@dataclass
class Decision:
    """What to do with a node.

    Attributes:
        node: the node's name.
        action: `if changed` runs only if an input comes out different; `resume` goes on from an interrupted
            stage; `continue` goes on from a finished one.
        reasons: why.
        made: what the node is made of now.
    """

    node: str
    action: Action
    reasons: list[str] = field(default_factory=list)
    made: Made | None = None

    @property
    def runs(self) -> bool:
        """Whether the node is sure to run."""
        return self.action in ("run", "resume", "continue")

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
        fingerprints: what nodes are made of.
        folder: `data/<run_name>`, where resume state lies.
        force: run it whatever holds.
        pending: datasets of which the content is not known yet.

    Raises:
        ValueError: an input is missing or cannot be followed.
    """
    made = fingerprints.of(node, pending)
    outputs = fingerprints.output_files(node)
    if force:
        return Decision(node.name, "run", ["forced"], made)
    if not outputs:
        what = "its result is kept in memory only" if node.outputs else "it has no outputs"
        return Decision(node.name, "run", [what], made)
    stamps: dict[str, Stamp] = {}
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
        if stamp is not None:
            stamps[name] = stamp
    stale: list[str] = []
    raised: list[str] = []
    for stamp in stamps.values():
        stale += _changes(stamp.identity, made.identity)
        if stamp.extends != made.parameters.extends:
            moved = differences(stamp.extends, made.parameters.extends)
            if only_raised(stamp.extends, made.parameters.extends):
                raised += moved
            else:
                stale += moved
    reasons += list(dict.fromkeys(stale + raised))
    if not reasons:
        if made.pending:
            names = ", ".join(made.pending)
            return Decision(node.name, "if changed", [f"runs if {names} comes out different"], made)
        return Decision(node.name, "up to date", [], made)
    return Decision(node.name, _how(node, made, folder, bool(raised)), reasons, made)


def plan(pipeline: Pipeline, fingerprints: Fingerprints, folder: Path, force: bool = False) -> list[Decision]:
    """Foresees a run: what each node would do if it were started now."""
    decisions: dict[str, Decision] = {}
    pending: set[str] = set()
    for node in pipeline.nodes:
        decision = decide(node, fingerprints, folder, force, frozenset(pending))
        if not force and feeds_only(node, pipeline, fingerprints):
            decision.action, decision.reasons = "not needed", []
            if decision.made is not None and decision.made.pending:
                pending |= {base_name(name) for name in node.outputs}
        elif decision.action != "up to date":
            pending |= {base_name(name) for name in node.outputs}
        decisions[node.name] = decision
    for node in reversed(pipeline.nodes):
        if decisions[node.name].action != "not needed":
            continue
        fed = [
            other.name
            for other in pipeline.nodes
            if set(other.inputs) & set(node.outputs)
            and decisions[other.name].action not in ("up to date", "not needed")
        ]
        if fed:
            sure = any(decisions[name].runs for name in fed)
            decisions[node.name].action = "run" if sure else "if changed"
            decisions[node.name].reasons = [f"feeds {', '.join(fed)}"]
    return list(decisions.values())


def feeds_only(node: Node, pipeline: Pipeline, fingerprints: Fingerprints) -> bool:
    """Whether a node is there only to feed others of the pipeline in memory."""
    return bool(node.outputs) and not fingerprints.output_files(node) and not set(node.outputs) & pipeline.outputs()


def as_table(decisions: list[Decision]) -> Table:
    """Returns the plan as a table: node, decision, why."""
    table = Table("node", "decision", "why", box=None, header_style="bold", pad_edge=False)
    for decision in decisions:
        colour = _COLOURS.get(decision.action, "cyan")
        table.add_row(decision.node, f"[{colour}]{decision.action}[/]", _escape(decision.why))
    return table


def _how(node: Node, made: Made, folder: Path, raised: bool) -> Action:
    """Whether a node that must run can go on from a state that it left."""
    if made.pending:
        return "run"
    kind = state_kind(state_path(folder, node.name), made.identity.fingerprint, made.parameters.extends)
    if kind == "raised":
        return "continue"
    if kind == "same":
        return "continue" if raised else "resume"
    return "run"


def _changes(before: Identity, now: Identity) -> list[str]:
    said = []
    if before.function != now.function:
        said.append(f"function {before.function} -> {now.function}")
    said += differences(before.parameters, now.parameters)
    code = [key for key in sorted({*before.code, *now.code}) if before.code.get(key) != now.code.get(key)]
    if code:
        more = f" and {len(code) - 2} more" if len(code) > 2 else ""
        said.append(f"code of {', '.join(code[:2])}{more}")
    for name in sorted({*before.inputs, *now.inputs}):
        if PENDING != now.inputs.get(name) != before.inputs.get(name):
            said.append(f"input {name} changed")
    said += [f"package {text}" for text in differences(before.packages, now.packages)]
    for name in sorted({*before.catalog, *now.catalog}):
        if digest(before.catalog.get(name)) != digest(now.catalog.get(name)):
            said.append(f"catalog entry {name} changed")
    return said


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
