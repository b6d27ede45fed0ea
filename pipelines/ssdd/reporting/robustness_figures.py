"""The figures of decoders on latents with noise: curves of quality against noise, and pictures."""

# S side in pixels

from collections.abc import Mapping, Sequence
from typing import Any

from ssdd.reporting.comparison_figures import LEGEND, SHADES, metric_panels

CELL, GAP, HEADER, MARGIN = 128, 4, 28, 150  # pixels of the sheet of pictures
SHOWN = 2  # images of each decoder


def robustness_curves(table: Any) -> Any:
    """Draws each figure over the level of noise, a line for each decoder, with its interval.

    Args:
        table: rows with `model`, `steps`, `latent_noise`, and figures with their intervals.

    Returns:
        A plotly figure with a panel for each metric that reports show.
    """
    from plotly.graph_objects import Scatter

    panels, figure = metric_panels(table)
    for column, metric in enumerate(panels, 1):
        for (model, steps), rows in table.groupby(["model", "steps"], sort=False):
            low, high = (f"{metric.name}_{end}" for end in ("low", "high"))
            known = low in rows and rows[low].notna().all()
            trace = Scatter(
                x=rows["latent_noise"].tolist(),
                y=rows[metric.name].tolist(),
                error_y={
                    "array": (rows[high] - rows[metric.name]).tolist(),
                    "arrayminus": (rows[metric.name] - rows[low]).tolist(),
                    "thickness": 1,
                }
                if known
                else None,
                mode="lines+markers",
                name=f"{model}, {steps} step{'' if steps == 1 else 's'}",
                legendgroup=model,
                showlegend=column == 1,
                line={"color": SHADES.get(str(model))},
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="noise (deviations)", row=1, col=column)
    figure.update_layout(template="plotly_white", height=460, margin={"t": 90, "l": 50, "r": 30}, legend=LEGEND)
    return figure


def noisy_pictures(pictures: Mapping[str, Any], decoders: Sequence[str]) -> Any:
    """Draws what each decoder makes of the same latents at each level of noise.

    Args:
        pictures: uint8 (n, 3, S, S) by `<decoder>|<level>`, and the images themselves by `input|`.
        decoders: their names, in order.

    Returns:
        A PIL image: a row for each image and decoder, a column for each level.
    """
    from PIL import Image, ImageDraw

    levels = sorted({name.partition("|")[2] for name in pictures if name != "input|"}, key=float)
    count = min(SHOWN, len(pictures["input|"]))
    rows = [(number, decoder) for number in range(count) for decoder in decoders]
    width = MARGIN + (len(levels) + 1) * (CELL + GAP)
    sheet = Image.new("RGB", (width, HEADER + len(rows) * (CELL + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, title in enumerate(["input", *(f"noise {level}" for level in levels)]):
        draw.text((MARGIN + place * (CELL + GAP) + CELL // 2, HEADER // 2), title, "black", font_size=14, anchor="mm")
    for place, (number, decoder) in enumerate(rows):
        top = HEADER + place * (CELL + GAP)
        draw.text((MARGIN - 8, top + CELL // 2), decoder, "black", font_size=13, anchor="rm")
        for column, name in enumerate(["input|", *(f"{decoder}|{level}" for level in levels)]):
            picture = Image.fromarray(pictures[name][number].permute(1, 2, 0).contiguous().numpy())
            picture = picture.resize((CELL, CELL), Image.Resampling.NEAREST)
            sheet.paste(picture, (MARGIN + column * (CELL + GAP), top))
    return sheet
