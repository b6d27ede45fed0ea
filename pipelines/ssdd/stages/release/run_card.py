"""The model card of any checkpoint, from whatever its run has measured so far."""

import json
from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters

HISTORIES = {"train encoder": "encoder", "pretrain": "pretrain", "finetune": "finetune", "distill": "distill"}


def card_of(file: Path) -> str:
    """Writes the card of a checkpoint.

    Args:
        file: of a packaged model, which has its own card; in `models/` or `release/` of a run, whose tables, figures
            and stamps make the card; or any other, whose card tells what the file holds.

    Raises:
        CheckpointError: the file holds no encoder and decoder that are known here.
    """
    import pandas

    from ssdd.packaged import FOLDER
    from ssdd.reporting.model_card import model_card

    if file.parent == FOLDER:
        return file.with_suffix(".md").read_text(encoding="utf-8")
    run = file.resolve().parent.parent

    def table(name: str) -> Any:
        path = run / name
        if not path.is_file():
            return None
        return pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)

    rounding = file.with_name("rounding.json")  # of the file that a release is
    data = _data(run / "images/index.parquet")
    return model_card(
        file,
        run.name if data else file.stem,
        table("evaluation/metrics.csv"),
        table("evaluation/photographs.csv"),
        json.loads(rounding.read_text(encoding="utf-8")) if rounding.is_file() else None,
        {stage: table(f"training/{name}.csv") for stage, name in HISTORIES.items()},
        table("images/index.parquet"),
        data,
        origin_of(file),
    )


def origin_of(file: Path) -> dict[str, Any]:
    """Returns command, commits and machines from the stamps of a file and of all that it is made of.

    They are no inputs, since nothing that they say changes a result: a card keeps what was true when it was written.
    """
    from ssdd.lineage.stamps import read_stamp

    stamps: dict[str, dict[str, Any]] = {}  # inputs first: the times of stamps are seconds, and short stages share one

    def visit(here: Path) -> None:
        stamp = read_stamp(here)
        if stamp is None or stamp.node in stamps:
            return
        for name in stamp.about["files"].values():
            visit(here.parent / name)
        stamps[stamp.node] = stamp.about

    visit(file)
    if not stamps:
        return {}
    commits: dict[str, list[str]] = {}
    for node, about in stamps.items():
        changed = " with uncommitted changes" if about["dirty"] else ""
        commits.setdefault(f"{about['commit'] or 'unknown'}{changed}", []).append(node)
    machines = {", ".join([about["machine"]["cpu"], *about["machine"]["gpu"]]) for about in stamps.values()}
    return {"command": next(reversed(stamps.values()))["command"], "commits": commits, "machines": sorted(machines)}


def _data(index: Path) -> DataParameters | None:
    """The images' source, from the stamp of their index; None where there is none."""
    from ssdd.lineage.stamps import read_stamp

    if (stamp := read_stamp(index)) is None:
        return None
    values = {**stamp.about.get("neutral", {}), **stamp.identity.parameters}
    found = {name: values.get(f"data.{name}") for name in ("kind", "root", "hub")}
    return DataParameters(**{name: value for name, value in found.items() if value is not None})
