"""The figures of the comparison: quality against speed, quality against training cost, and crops that differ most."""

# H W pixels, K side of a crop

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from ssdd.reporting.comparison_table import FEED_FORWARD, KL, KL_ADVERSARIAL, quality_metric

SHADES = {
    "student": "#d62728",
    "teacher": "#ff9896",
    KL: "#1f77b4",
    KL_ADVERSARIAL: "#17becf",
    FEED_FORWARD: "#2ca02c",
    "SSDD, teacher": "#ff9896",
    "SSDD, student": "#d62728",
}
GAP, CELL, HEADER = 6, 192, 40  # pixels of the figure of crops
LEGEND = {"orientation": "h", "y": -0.2}
TEXT = ("top center", "bottom center", "top right", "bottom right", "top left", "bottom left")


def quality_speed_figure(table: Any, pixels: int) -> Any:
    """Draws quality over decoding speed, a point for each decoder and number of steps.

    The PCA's reference row is a line, since its speed means nothing. Decoders of one kind that were trained in
    several sizes (other runs) are joined.

    Args:
        table: of `comparison_table`.
        pixels: side of the decoded images.

    Returns:
        A plotly figure with a panel for the set distance, the perceptual distance and the PSNR, as far as they are
        there.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    from ssdd_metrics.registry import METRICS

    speed = f"images_per_second_{pixels}"
    names = [quality_metric(table.columns), *(n for n in ("lpips_alex", "efficientnet_distance") if n in table), "psnr"]
    panels = [METRICS[name] for name in dict.fromkeys(names) if name in table]
    titles = [f"{metric.title}<br>{metric.direction}" for metric in panels]
    figure = make_subplots(rows=1, cols=len(panels), subplot_titles=titles)
    timed = table[table[speed].notna()] if speed in table else table[:0]
    for column, metric in enumerate(panels, 1):
        place = {"row": 1, "col": column}
        for place_of_text, (kind, rows) in zip(cycle(TEXT), _families(timed).items(), strict=False):
            rows = rows.sort_values("parameters") if _is_trained_in_sizes(rows) else rows
            trace = Scatter(
                x=rows[speed].tolist(),
                y=rows[metric.name].tolist(),
                text=[_short(name, steps) for name, steps in zip(rows["model"], rows["steps"], strict=True)],
                textposition=place_of_text,
                mode="lines+markers+text" if _is_trained_in_sizes(rows) else "markers+text",
                name=kind,
                legendgroup=kind,
                showlegend=column == 1,
                marker={"color": SHADES.get(rows["model"].iloc[0]), "size": 11},
                cliponaxis=False,
            )
            figure.add_trace(trace, **place)
        for _, row in table[table["steps"] == 0].iterrows():
            if str(row["model"]).startswith("PCA"):  # the best of them; with the others all points share a corner
                figure.add_hline(
                    y=row[metric.name],
                    line={"dash": "dot", "color": "#888", "width": 1},
                    annotation={"text": row["model"], "font": {"size": 9, "color": "#666"}},
                    **place,
                )
        figure.update_xaxes(title_text=f"images per second, {pixels} px", type="log", **_room(timed, speed), **place)
    figure.update_layout(template="plotly_white", height=480, margin={"t": 90, "l": 50, "r": 30}, legend=LEGEND)
    return figure


def metric_panels(table: Any, title: str = "") -> tuple[list[Any], Any]:
    """Returns the metrics that reports show and the table has, and an empty figure with a panel for each.

    Args:
        table: rows with figures by the metric's name.
        title: before the name of each metric.
    """
    from plotly.subplots import make_subplots

    from ssdd_metrics.registry import reported_metrics

    metrics = [metric for metric in reported_metrics(table.columns) if table[metric.name].notna().any()]
    titles = [f"{title}{metric.title}<br>{metric.direction}" for metric in metrics]
    return metrics, make_subplots(rows=1, cols=len(metrics) or 1, subplot_titles=titles)


def cost_figure(costs: Any) -> Any:
    """Draws the held-out quality on the way of each training over what it had cost by then.

    Args:
        costs: of `cost_table`.

    Returns:
        A plotly figure with a panel for each metric that reports show.
    """
    from plotly.graph_objects import Scatter

    panels, figure = metric_panels(costs, "held-out ")
    for column, metric in enumerate(panels, 1):
        for side, rows in costs.dropna(subset=[metric.name]).groupby("side", sort=False):
            trace = Scatter(
                x=rows["seconds"].tolist(),
                y=rows[metric.name].tolist(),
                text=[
                    f"{stage}, {views:.0f} image views"
                    for stage, views in zip(rows["stage"], rows["views"], strict=True)
                ],
                mode="lines+markers",
                name=side,
                legendgroup=side,
                showlegend=column == 1,
                line={"color": SHADES.get(str(side))},
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="training cost (seconds of one thread or GPU)", row=1, col=column)
    figure.update_layout(template="plotly_white", height=470, margin={"t": 90, "l": 50, "r": 30}, legend=LEGEND)
    return figure


def difference_figure(
    pictures: Mapping[str, Any], columns: Sequence[str], compared: tuple[str, str], crop: int, count: int
) -> Any:
    """Draws the crops in which two decoders differ most.

    The rule: of each photograph, the crop with the largest mean squared difference between the two decoders, of all
    positions; of all photographs, those whose crop differs most, in that order.

    Args:
        pictures: uint8 (3, H, W) by `<number>.<row>`.
        columns: the rows of the pictures that are drawn, in order, after the whole photograph.
        compared: the two rows.
        crop: K; a smaller photograph gives a smaller crop.
        count: photographs at most.

    Returns:
        A PIL image.
    """
    from PIL import Image, ImageDraw

    numbers = sorted({name.partition(".")[0] for name in pictures}, key=int)
    chosen = []
    for number in numbers:
        first, second = (pictures[f"{number}.{name}"] for name in compared)
        distance, box = most_different(first, second, crop)
        chosen.append((distance, number, box))
    chosen = sorted(chosen, key=lambda item: -item[0])[:count]
    whole_width = CELL * 3 // 2
    width = whole_width + len(columns) * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(chosen) * (CELL + GAP) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, name in enumerate(columns):
        left = whole_width + GAP + place * (CELL + GAP)
        draw.text((left + CELL // 2, HEADER // 2), name, fill="black", font_size=16, anchor="mm")
    for row, (_, number, box) in enumerate(chosen):
        top = HEADER + row * (CELL + GAP)
        sheet.paste(_whole(pictures[f"{number}.{columns[0]}"], box, (whole_width, CELL)), (0, top))
        for place, name in enumerate(columns):
            part = _image(pictures[f"{number}.{name}"]).crop(box).resize((CELL, CELL), Image.Resampling.NEAREST)
            sheet.paste(part, (whole_width + GAP + place * (CELL + GAP), top))
    return sheet


def most_different(first: Any, second: Any, crop: int) -> tuple[float, tuple[int, int, int, int]]:
    """Returns the largest mean squared difference of a crop of two pictures, and its box (left, top, right, bottom).

    Args:
        first, second: uint8 (3, H, W).
        crop: K.
    """
    import torch.nn.functional as F

    error = (first.double() - second.double()).square().mean(0)
    height, width = error.shape
    side = min(crop, height, width)
    means = F.avg_pool2d(error[None, None], side, stride=1)[0, 0]
    top, left = divmod(int(means.argmax()), means.shape[1])
    return float(means[top, left]), (left, top, left + side, top + side)


def _whole(picture: Any, box: tuple[int, int, int, int], size: tuple[int, int]) -> Any:
    """Shrinks a photograph into a size and marks the crop."""
    from PIL import ImageDraw

    image = _image(picture)
    scale = min(size[0] / image.width, size[1] / image.height)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    ImageDraw.Draw(image).rectangle([value * scale for value in box], outline="red", width=2)
    return image


def _image(picture: Any) -> Any:
    from PIL import Image

    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def _families(timed: Any) -> dict[str, Any]:
    """Returns the rows by kind and number of steps: `RUN: student` of another run is of the kind `student`."""
    found: dict[str, list[int]] = {}
    for index, row in timed.iterrows():
        kind = str(row["model"]).rpartition(": ")[2]
        steps = int(row["steps"])
        label = f"{kind}, {steps} step{'' if steps == 1 else 's'}" if kind in ("teacher", "student") else kind
        found.setdefault(label, []).append(index)
    return {label: timed.loc[rows] for label, rows in found.items()}


def _room(timed: Any, speed: str) -> dict[str, Any]:
    """Returns a logarithmic axis with room for the names beside the first and the last point."""
    import math

    if not len(timed):
        return {}
    low, high = (math.log10(value) for value in (timed[speed].min(), timed[speed].max()))
    return {
        "range": [low - 0.25, high + 0.4],
        "tickvals": [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000],
    }


def _is_trained_in_sizes(rows: Any) -> bool:
    return len(rows) > 1 and rows["parameters"].nunique() > 1


def _short(model: str, steps: int) -> str:
    return f"{model}, {steps}" if model.rpartition(": ")[2] in ("teacher", "student") else str(model)
