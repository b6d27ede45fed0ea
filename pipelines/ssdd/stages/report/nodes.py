"""The figures as catalog entries, and one page with all of them."""

import base64
import io
import json
from pathlib import Path
from typing import Any

# shown in the page's table, best first in their own way
COLUMNS = {
    "psnr": ("PSNR (dB)", "higher", 2),
    "ssim_gaussian": ("SSIM", "higher", 3),
    "lpips_alex": ("LPIPS (alex)", "lower", 4),
    "rfid": ("rFID", "lower", 3),
    "fdd": ("FDD", "lower", 2),
    "frechet_random_conv": ("Frechet, random features", "lower", 4),
    "swd": ("sliced Wasserstein", "x 1000, lower", 1),
    "gradient_energy_ratio": ("gradient energy ratio", "near 1", 3),
}


def draw_reconstructions(teacher_reconstructions: Path, student_reconstructions: Path) -> tuple[Any, Any]:
    """Draws inputs and reconstructions side by side, and the student's best and worst images."""
    from ssdd.reporting.run_figures import extremes_figure, load_pictures, reconstruction_figure

    teacher, student = load_pictures(teacher_reconstructions), load_pictures(student_reconstructions)
    return reconstruction_figure(teacher, student), extremes_figure(student)


def draw_curves(encoder_history: Any, pretrain_history: Any, finetune_history: Any, distill_history: Any) -> Any:
    """Draws the training curves of the stages that ran."""
    from ssdd.reporting.run_figures import curves_figure

    histories = {
        "train encoder": encoder_history,
        "pretrain": pretrain_history,
        "finetune": finetune_history,
        "distill": distill_history,
    }
    return curves_figure(histories)


def write_report(
    metrics: Any, reconstruction_figure: Any, extremes_figure: Any, curves_figure: Any, latent_stats: Any, run_name: str
) -> str:
    """Puts everything on one page that needs no other file.

    Args:
        metrics: table of `collect_metrics`.
        reconstruction_figure, extremes_figure: PIL images.
        curves_figure: plotly figure.
        latent_stats: of the encoder, or None.
        run_name: the title.

    Returns:
        HTML.
    """
    from importlib.resources import files

    from jinja2 import Template

    protocol = json.loads(metrics["protocol"].iloc[-1])
    template = files("ssdd.reporting").joinpath("report.html.jinja").read_text(encoding="utf-8")
    return Template(template, autoescape=True).render(
        run_name=run_name,
        columns=[(title, better) for name, (title, better, _) in COLUMNS.items() if name in metrics],
        rows=[_table_row(row) for row in metrics.to_dict("records")],
        reconstructions=_embed(reconstruction_figure),
        extremes=_embed(extremes_figure),
        curves=curves_figure.to_html(full_html=False, include_plotlyjs=True),
        latent_stats=latent_stats,
        protocol=protocol,
        protocol_json=json.dumps(protocol, indent=2),
    )


def _table_row(row: dict[str, Any]) -> dict[str, Any]:
    cells = []
    for name, (_, _, digits) in COLUMNS.items():
        if name not in row:
            continue
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        interval = f"{low:.{digits}f} to {high:.{digits}f}" if low is not None else ""
        cells.append((f"{row[name]:.{digits}f}", interval))
    return {"model": row["model"], "steps": row["steps"], "cells": cells}


def _embed(image: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()
