"""The card of a released model: Markdown with the front matter of the Hugging Face hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdd.parameters import DataParameters


def model_card(
    model: Path,
    run_name: str,
    metrics: Any,
    photographs: Any,
    rounding: Mapping[str, float] | None,
    histories: Mapping[str, Any],
    index: Any,
    data: DataParameters | None,
    origin: Mapping[str, Any],
) -> str:
    """Writes the card. What is None is not known, and its part is left out.

    Args:
        model: the file.
        run_name: the run that it comes from; a packaged model of that name is loaded by it.
        metrics: table of `collect_metrics`.
        photographs: table of `decode_photographs`.
        rounding: of `compare_reconstructions`, for a file of rounded weights.
        histories: tables by stage in their order, None for stages that did not run.
        index: of the images.
        data: the images' source.
        origin: command, commits (text -> its nodes) and machines, or nothing where they are not known.
    """
    # Imported here, because the pipelines are registered at every command and must not wait for torch.
    from importlib.resources import files

    from jinja2 import Environment

    from ssdd.packaged import NAMES
    from ssdd.reporting.card_data import front_matter

    # The name as a literal next to this file: that is how the lineage notices an edited template.
    text = files("ssdd.reporting").joinpath("model_card.md.jinja").read_text(encoding="utf-8")
    template = Environment(trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True).from_string(text)
    return template.render(
        front_matter=front_matter(run_name, metrics, data),
        run_name=run_name,
        distilled=rounding is not None or model.stem.startswith("distilled"),
        source=run_name if run_name in NAMES else model.name,
        **_contents(model),
        **_images(index, data),
        origin=origin,
        growth=_growth(histories),
        **_figures(metrics, photographs),
        rounding=rounding,
    )


def _figures(metrics: Any, photographs: Any) -> dict[str, Any]:
    """Returns the rows of both tables, and what they depend on; empty rows where there is no table."""
    from ssdd.reporting.photograph_figures import summary
    from ssdd.reporting.report_page import cell
    from ssdd_metrics.registry import reported_metrics

    found: dict[str, Any] = {"rows": [], "photographs": []}
    if metrics is not None:
        shown, protocol = reported_metrics(metrics), json.loads(metrics["protocol"].iloc[-1])
        found |= {
            "columns": [(metric.title, metric.direction) for metric in shown],
            "rows": [
                {"model": row["model"], "steps": row["steps"], "cells": [cell(row, metric) for metric in shown]}
                for row in metrics.to_dict("records")
            ],
            "protocol": protocol,
            "protocol_json": json.dumps(protocol, indent=2),
        }
    if photographs is not None:
        found |= {
            "photographs": summary(photographs),
            "photograph_count": photographs["number"].nunique(),
            "photograph_side": int(photographs[["width", "height"]].to_numpy().max()),
        }
    return found


def _contents(model: Path) -> dict[str, Any]:
    """Returns the encoder's configuration, the parts' counts of parameters, and the file's size and hash."""
    from ssdd.autoencoder import SSDD
    from ssdd.files import sha256_file
    from ssdd_decoder.checkpoint import read_header

    tensors = read_header(model).tensors
    return {
        "encoder": SSDD.config_of(model)[0],
        "parameters": {
            part: sum(tensor.numel() for name, tensor in tensors.items() if name.startswith(f"{part}."))
            for part in ("encoder", "decoder")
        },
        "size": model.stat().st_size,
        "sha256": sha256_file(model),
    }


def _growth(histories: Mapping[str, Any]) -> list[tuple[str, int, float]]:
    """Returns up to three evaluations of each stage: its name, the steps of all stages so far, the held-out PSNR."""
    rows, before = [], 0
    for stage, history in histories.items():
        if history is None or "psnr" not in history:
            continue
        evaluated = history[history["split"] == "eval"]
        for place in sorted({0, len(evaluated) // 2, len(evaluated) - 1}):
            row = evaluated.iloc[place]
            rows.append((stage, before + int(row["step"]), float(row["psnr"])))
        before += int(history["step"].max())
    return rows


def _images(index: Any, data: DataParameters | None) -> dict[str, Any]:
    """Returns the counts of images per split and their origin; of the embedded sample, the photographs' credits."""
    if index is None or data is None:
        return {"kind": None}
    from ssdd.data.attribution import photograph_credits

    counts = {split: int((index["split"] == split).sum()) for split in ("train", "validation")}
    if data.kind != "sample":
        # The folder's name and no more of its path, which may hold the name of a user.
        return {"counts": counts, "kind": data.kind, "place": data.hub or Path(str(data.root)).name}
    names = set(index["path"].str.split("/").str[0])
    leaves = sum(name.startswith("leaves-") for name in names)
    return {"counts": counts, "kind": "sample", "credits": photograph_credits(names), "leaves": leaves}
