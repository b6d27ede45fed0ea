"""The comparison as a section of the report: its table, its figures, and in words what came out."""

import base64
import io
import json
from typing import Any

from ssdd.reporting.comparison_table import FEED_FORWARD, KL, KL_ADVERSARIAL, STUDENT, at_equal_cost

MIB = 2**20
# in the sentences, as far as they are there
JUDGED = ("psnr", "ssim_gaussian", "lpips_alex", "efficientnet_distance", "gradient_energy_ratio")
PUBLISHED = (
    "The published result (rFID 0.50 against 0.87 of the KL-VAE, at 1.4 times its throughput) is of networks of about "
    "50 million parameters for f8c4 latents, trained for hundreds of epochs of ImageNet with LPIPS and judged by rFID."
)


def comparison_section(
    table: Any, costs: Any, plan: dict[str, Any], quality_speed: Any, cost: Any, differences: Any
) -> dict[str, Any]:
    """Makes the section.

    Args:
        table: of `comparison_table`.
        costs: of `cost_table`.
        plan: of the comparison.
        quality_speed, cost: plotly figures.
        differences: PIL image of `difference_figure`.

    Returns:
        `html`, which needs plotly.js in the page; `sentences`; and `student`, the hash of the model that it is about.
    """
    from importlib.resources import files

    from jinja2 import Template

    from ssdd_metrics.registry import reported_metrics

    shown = reported_metrics(table.columns)
    sizes = sorted(int(name.rpartition("_")[2]) for name in table if name.startswith("images_per_second_"))
    protocol = json.loads(table["protocol"].iloc[0])
    student = table[table["model"] == STUDENT].sort_values("steps").iloc[0]
    said = sentences(table, costs, plan)
    template = files("ssdd.reporting").joinpath("comparison.html.jinja").read_text(encoding="utf-8")
    html = Template(template, autoescape=True).render(
        columns=[(metric.title, metric.direction) for metric in shown],
        sizes=sizes,
        rows=[_row(row, shown, sizes) for row in table.to_dict("records")],
        sentences=said,
        protocol=protocol,
        quality_speed=quality_speed.to_html(full_html=False, include_plotlyjs=False),
        cost=cost.to_html(full_html=False, include_plotlyjs=False),
        differences=_embedded(differences),
        plan=plan,
    )
    return {"student": json.loads(student["protocol"])["model"], "sentences": said, "html": html}


def sentences(table: Any, costs: Any, plan: dict[str, Any]) -> list[str]:
    """Returns what came out: the student against each other decoder, at equal cost, and the published conditions."""
    from ssdd_metrics.registry import METRICS, reported_metrics

    metrics = [METRICS[name] for name in JUDGED if name in table]
    rows = {row["model"]: row for row in table.to_dict("records") if row["steps"] == 1}
    found = []
    for name in (KL, KL_ADVERSARIAL, FEED_FORWARD):
        if name in rows:
            parts = [_verdict(rows[name], metric) for metric in metrics if f"{metric.name}_difference" in rows[name]]
            found.append(f"The student against {name}: {'; '.join(parts)}.")
    whole = [metric for metric in reported_metrics(table.columns) if not metric.per_image]
    if whole:
        found.append(f"Distances between whole sets of images, which have no interval: {_sets(rows, whole)}.")
    for metric in metrics:
        pair = at_equal_cost(costs, metric.name)
        if pair:
            less = pair["spent"] < 0.99 * pair["seconds"]
            found.append(
                f"At equal training cost ({pair['seconds']:.0f} s) in {metric.title}, over the images of the periodic "
                f"evaluation: student {pair['student']:.{metric.digits}f}, feed-forward "
                f"{pair['feed_forward']:.{metric.digits}f}"
                + (f" (it was trained for {pair['spent']:.0f} s only)." if less else ".")
            )
    return [*found, f"{PUBLISHED} Here each decoder has seen about {plan['views']:,} crops."]


def _verdict(row: dict[str, Any], metric: Any) -> str:
    """Says in words whether the student is better; the row has the other decoder's value less the student's."""
    low, high = row[f"{metric.name}_difference_low"], row[f"{metric.name}_difference_high"]
    # A ratio that should be 1 is better the higher it is, as long as both are below 1.
    below = max(row[metric.name], row[metric.name] - row[f"{metric.name}_difference"]) < 1
    sign = 1 if metric.better == "higher" or (metric.better == "near 1" and below) else -1
    if low <= 0 <= high:
        word = "not distinguishable"
    else:
        word = "worse" if sign * low > 0 else "better"
    ends = sorted((-low, -high))
    interval = f"{ends[0]:+.{metric.digits}f} to {ends[1]:+.{metric.digits}f}"
    return f"{metric.title} {word} ({-row[f'{metric.name}_difference']:+.{metric.digits}f}, 95 % interval {interval})"


def _sets(rows: dict[str, dict[str, Any]], metrics: list[Any]) -> str:
    names = [name for name in (STUDENT, KL, KL_ADVERSARIAL, FEED_FORWARD) if name in rows]
    parts = [
        f"{metric.title} {', '.join(f'{name} {rows[name][metric.name]:.{metric.digits}f}' for name in names)}"
        for metric in metrics
    ]
    return "; ".join(parts)


def _row(row: dict[str, Any], metrics: list[Any], sizes: list[int]) -> dict[str, Any]:
    return {
        "model": row["model"],
        "steps": row["steps"] or "",
        "parameters": _number(row.get("parameters"), 1e-6),
        "cells": [_cell(row, metric) for metric in metrics],
        "speeds": [_number(row.get(f"images_per_second_{size}"), 1.0) for size in sizes],
        "peak": _number(row.get(f"peak_bytes_{sizes[-1]}") if sizes else None, 1 / MIB),
    }


def _cell(row: dict[str, Any], metric: Any) -> tuple[str, str, str]:
    """Returns a value, its interval, and the difference to the student with its interval."""
    name, digits = metric.name, metric.digits
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    interval = f"{low:.{digits}f} to {high:.{digits}f}" if _is_number(low) else ""
    ends = [row.get(f"{name}_difference{end}") for end in ("", "_low", "_high")]
    same = row["model"] == STUDENT or not all(_is_number(end) for end in ends)
    difference = "" if same else "{:+.{d}f} ({:+.{d}f} to {:+.{d}f})".format(*ends, d=digits)
    return f"{row[name]:.{digits}f}" if _is_number(row[name]) else "", interval, difference


def _number(value: Any, factor: float) -> str:
    return f"{value * factor:.3g}" if _is_number(value) else ""


def _is_number(value: Any) -> bool:
    return value is not None and value == value


def _embedded(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
