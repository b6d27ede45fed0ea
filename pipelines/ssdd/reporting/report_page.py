"""The report: one page with the figures, the metrics and the protocol of a run."""

import base64
import io
import json
from pathlib import Path
from typing import Any


def write_report(
    metrics: Any,
    photographs: Path,
    photograph_metrics: Any,
    reconstruction_figure: Any,
    extremes_figure: Any,
    curves_figure: Any,
    latent_stats: Any,
    comparison: dict[str, Any] | None,
    run_name: str,
) -> str:
    """Puts everything on one page that needs no other file.

    Args:
        metrics: table of `collect_metrics`.
        photographs: pictures of `decode_photographs`, safetensors.
        photograph_metrics: table of `decode_photographs`.
        reconstruction_figure, extremes_figure: PIL images.
        curves_figure: plotly figure.
        latent_stats: of the encoder, or None.
        comparison: the section of `comparison_section`, once there is one.
        run_name: the title.

    Returns:
        HTML.
    """
    # Imported here, because the pipelines are registered at every command and must not wait for torch.
    from importlib.resources import files

    from jinja2 import Template
    from plotly.offline import get_plotlyjs

    from ssdd_metrics.registry import reported_metrics

    shown = reported_metrics(metrics)
    protocol = json.loads(metrics["protocol"].iloc[-1])
    # The names are literals of files next to this one: the lineage then detects an edited page.
    template = files("ssdd.reporting").joinpath("report.html.jinja").read_text(encoding="utf-8")
    viewer = files("ssdd.reporting").joinpath("photograph_viewer.js").read_text(encoding="utf-8")
    student = protocol.get("model")
    return Template(template, autoescape=True).render(
        run_name=run_name,
        columns=[(metric.title, metric.direction) for metric in shown],
        rows=[
            {"model": row["model"], "steps": row["steps"], "cells": [cell(row, metric) for metric in shown]}
            for row in metrics.to_dict("records")
        ],
        viewer=viewer,
        **_whole_photographs(photographs, photograph_metrics),
        reconstructions=_embed(reconstruction_figure),
        extremes=_embed(extremes_figure),
        plotly=get_plotlyjs() if curves_figure.data or comparison else "",
        curves=curves_figure.to_html(full_html=False, include_plotlyjs=False) if curves_figure.data else "",
        comparison=comparison["html"] if comparison else "",
        comparison_is_old=comparison is not None and comparison["student"] != student,
        latent_stats=latent_stats,
        protocol=protocol,
        protocol_json=json.dumps(protocol, indent=2),
    )


def _whole_photographs(pictures: Path, table: Any) -> dict[str, Any]:
    """Returns the template's values of the viewer and of the table below it."""
    from safetensors.torch import load_file

    from ssdd.reporting.photograph_figures import compared_rows, summary, viewer_data
    from ssdd_metrics.registry import reported_metrics

    shown = reported_metrics(table.columns)
    resize, _, student = compared_rows(table)
    return {
        "photographs": viewer_data(load_file(pictures), table),
        "left": resize,
        "right": student,
        "extremes_of_photographs": _extremes(table[table["row"] == student]),
        "photograph_columns": [(metric.title, metric.direction) for metric in shown],
        "photograph_rows": [
            {**row, "cells": [f"{row[metric.name]:.{metric.digits}f}" for metric in shown]} for row in summary(table)
        ],
        "photograph_side": int(table[["width", "height"]].to_numpy().max()),
    }


def _extremes(student: Any) -> list[dict[str, Any]]:
    """Returns the best and the worst photograph by PSNR, with their positions in the viewer."""
    order = student.reset_index(drop=True).sort_values("psnr", ascending=False, kind="stable")
    return [
        {"which": which, "position": position, "name": row["photograph"], "psnr": row["psnr"]}
        for which, (position, row) in (("Best", _at(order, 0)), ("Worst", _at(order, -1)))
    ]


def _at(table: Any, place: int) -> tuple[int, Any]:
    return int(table.index[place]), table.iloc[place]


def cell(row: dict[str, Any], metric: Any) -> tuple[str, str]:
    """Formats a value and its interval; a distance between whole sets of images has none."""
    name, digits = metric.name, metric.digits
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = f"{low:.{digits}f} to {high:.{digits}f}" if low is not None else ""
    return f"{row[name]:.{digits}f}", interval


def _embed(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
