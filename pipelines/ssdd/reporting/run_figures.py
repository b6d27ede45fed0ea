"""Figures of a run: reconstructions side by side, best and worst images, training curves."""

from pathlib import Path
from typing import Any

LABEL_WIDTH = 150


def reconstruction_figure(teacher: dict[str, Any], student: dict[str, Any]) -> Any:
    """Rows of the same images: input, teacher by its numbers of steps, student by its own.

    Args:
        teacher: tensors by name, uint8 (n, 3, S, S), as the evaluation keeps them (`steps8.shown`, ...).
        student: likewise.

    Returns:
        a PIL image.
    """
    rows = [("input", next(images for name, images in teacher.items() if name.endswith(".shown_input")))]
    for model, pictures in (("teacher", teacher), ("student", student)):
        for steps in sorted(_steps(pictures), reverse=True):
            rows.append((f"{model}, {steps} step{'s' if steps > 1 else ''}", pictures[f"steps{steps}.shown"]))
    return _rows(rows)


def extremes_figure(student: dict[str, Any]) -> Any:
    """The student's best and worst images by PSNR, each below its input: a PIL image."""
    steps = min(_steps(student))
    rows = []
    for name in ("best", "worst"):
        rows += [
            (f"{name}: input", student[f"steps{steps}.{name}_input"]),
            (f"{name}: {steps} step{'s' if steps > 1 else ''}", student[f"steps{steps}.{name}"]),
        ]
    return _rows(rows)


def curves_figure(histories: dict[str, Any]) -> Any:
    """Training loss and held-out figures over the steps of all stages, one colour a stage: a plotly figure.

    Args:
        histories: tables by stage, None for stages that were not run here.
    """
    from plotly.colors import qualitative
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    panels = [
        ("train", "loss", "training loss"),
        ("eval", "psnr", "held-out PSNR (dB)"),
        ("eval", "rfid", "held-out rFID"),
    ]
    present = [
        panel
        for panel in panels
        if any(h is not None and panel[1] in h and (h["split"] == panel[0]).any() for h in histories.values())
    ]
    figure = make_subplots(rows=1, cols=max(len(present), 1), subplot_titles=[title for *_, title in present])
    for column, (split, name, _) in enumerate(present, 1):
        start = 0
        for colour, (stage, history) in zip(qualitative.D3, histories.items(), strict=False):
            if history is None:
                continue
            rows = history[history["split"] == split] if name in history else history[:0]
            trace = Scatter(
                x=[start + step for step in rows["step"].tolist()],
                y=rows[name].tolist() if name in rows else [],
                name=stage,
                legendgroup=stage,
                showlegend=column == 1,
                mode="lines+markers" if split == "eval" else "lines",
                line={"color": colour},
            )
            figure.add_trace(trace, row=1, col=column)
            start += int(history["step"].max()) if len(history) else 0
        figure.update_xaxes(title_text="optimiser step", row=1, col=column)
    figure.update_layout(template="plotly_white", height=380, margin={"t": 50, "l": 50, "r": 20, "b": 40})
    return figure


def load_pictures(file: Path) -> dict[str, Any]:
    """Reads what the evaluation kept to look at."""
    from safetensors.torch import load_file

    return load_file(file)


def _steps(pictures: dict[str, Any]) -> set[int]:
    return {int(name.split(".")[0].removeprefix("steps")) for name in pictures if name.endswith(".shown")}


def _rows(rows: list[tuple[str, Any]]) -> Any:
    """Labelled rows of images (n, 3, S, S), small ones enlarged without smoothing."""
    from PIL import Image, ImageDraw

    count, side = max(len(images) for _, images in rows), rows[0][1].shape[-1]
    cell = side * max(1, round(112 / side))
    sheet = Image.new("RGB", (LABEL_WIDTH + count * (cell + 4), len(rows) * (cell + 4)), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (label, images) in enumerate(rows):
        top = r * (cell + 4)
        draw.text((6, top + cell // 2 - 6), label, fill="black", font_size=14)
        for c, image in enumerate(images):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            sheet.paste(picture.resize((cell, cell), Image.Resampling.NEAREST), (LABEL_WIDTH + c * (cell + 4), top))
    return sheet
