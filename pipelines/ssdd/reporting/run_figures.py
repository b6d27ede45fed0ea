"""Figures of a run: reconstructions side by side, best and worst images, training curves."""

# n images, S side in pixels

from typing import Any

LABEL_WIDTH = 200
PANELS_PER_ROW = 3


def reconstruction_figure(teacher: dict[str, Any], student: dict[str, Any], references: dict[str, Any]) -> Any:
    """Draws rows of the same images: the input, the resize, then the teacher and the student by their numbers of steps.

    Args:
        teacher: tensors by name, uint8 (n, 3, S, S), as the evaluation keeps them (`steps8.shown`, ...).
        student: likewise.
        references: likewise, by the names of the reference rows (`resize by 8.shown`, ...).

    Returns:
        A PIL image.
    """
    rows = [("input", next(images for name, images in teacher.items() if name.endswith(".shown_input")))]
    rows += [(name.removesuffix(".shown"), images) for name, images in references.items() if _is_resize(name)]
    for model, pictures in (("teacher", teacher), ("student", student)):
        for steps in sorted(_steps(pictures), reverse=True):
            rows.append((f"{model}, {steps} step{'s' if steps > 1 else ''}", pictures[f"steps{steps}.shown"]))
    return _rows(rows)


def extremes_figure(student: dict[str, Any]) -> Any:
    """Draws the student's best and worst images, each below its input: a PIL image."""
    steps = min(_steps(student))  # the student is made for the smallest number
    rows = []
    for name in ("best", "worst"):
        rows += [
            (f"{name}: input", student[f"steps{steps}.{name}_input"]),
            (f"{name}: {steps} step{'s' if steps > 1 else ''}", student[f"steps{steps}.{name}"]),
        ]
    return _rows(rows)


def curves_figure(histories: dict[str, Any]) -> Any:
    """Draws training loss and held-out metrics over the steps of all stages, one colour a stage.

    Args:
        histories: tables by stage, None for stages that did not run.

    Returns:
        A plotly figure with a panel for the loss and one for each metric that reports show.
    """
    # Imported here, because the pipelines are registered at every command and must not wait for plotly.
    from plotly.colors import qualitative
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    ran = {stage: history for stage, history in histories.items() if history is not None}
    panels = _curve_panels(list(ran.values()))
    lines, width = -(-len(panels) // PANELS_PER_ROW) or 1, min(len(panels), PANELS_PER_ROW) or 1
    figure = make_subplots(rows=lines, cols=width, subplot_titles=[title for *_, title in panels])
    for number, (split, name, _) in enumerate(panels):
        place = {"row": number // PANELS_PER_ROW + 1, "col": number % PANELS_PER_ROW + 1}
        start = 0
        # Colours go by all stages, so that a stage has the same one in every run.
        for colour, (stage, history) in zip(qualitative.D3, histories.items(), strict=False):
            if history is None:
                continue
            rows = history[history["split"] == split] if name in history else history[:0]
            trace = Scatter(
                x=[start + step for step in rows["step"].tolist()],
                y=rows[name].tolist() if name in rows else [],
                name=stage,
                legendgroup=stage,
                showlegend=number == 0,
                mode="lines+markers" if split == "eval" else "lines",
                line={"color": colour},
            )
            figure.add_trace(trace, **place)
            start += int(history["step"].max()) if len(history) else 0
        figure.update_xaxes(title_text="optimiser step", **place)
    figure.update_layout(template="plotly_white", height=380 * lines, margin={"t": 50, "l": 50, "r": 20, "b": 40})
    return figure


def _curve_panels(histories: list[Any]) -> list[tuple[str, str, str]]:
    """Returns (split, column, title) of each panel that some history has values for."""
    from ssdd_metrics.registry import METRICS, reported_metrics

    panels = [("train", "loss", "training loss")]
    panels += [("eval", metric.name, f"held-out {metric.title}") for metric in reported_metrics(METRICS)]
    return [
        panel
        for panel in panels
        if any(panel[1] in history and (history["split"] == panel[0]).any() for history in histories)
    ]


def _is_resize(name: str) -> bool:
    return name.startswith("resize") and name.endswith(".shown")


def _steps(pictures: dict[str, Any]) -> set[int]:
    return {int(name.split(".")[0].removeprefix("steps")) for name in pictures if name.endswith(".shown")}


def _rows(rows: list[tuple[str, Any]]) -> Any:
    """Draws labelled rows of images (n, 3, S, S)."""
    from PIL import Image, ImageDraw

    count, side = max(len(images) for _, images in rows), rows[0][1].shape[-1]
    # Enlarged by a whole factor and without smoothing: a reader must see the pixels that were decoded.
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
