"""The figure of generation: the samples' distance over the time of sampling and decoding together."""

from typing import Any

from ssdd.reporting.comparison_figures import LEGEND, SHADES
from ssdd_metrics.registry import METRICS

GREYS = ("#999999", "#444444", "#2ca02c")
TITLES = {"gfid": "gFID"}


def sample_quality_figure(metrics: Any, speed: Any) -> Any:
    """Draws a point for each decoder and number of sampler steps, and a line for each reference row.

    Args:
        metrics: a row per decoder and number of sampler steps, see `ssdd.stages.evaluate_samples`.
        speed: likewise, with `total_seconds` of an image.

    Returns:
        A plotly figure with a panel for each distance.
    """
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    columns = [name for name in metrics.columns if name in TITLES or name in METRICS]
    titles = [f"{_title(name)}<br>lower is better" for name in columns]
    figure = make_subplots(rows=1, cols=len(columns), subplot_titles=titles)
    seconds = {
        (row["decoder"], row["decoder_steps"], row["sampler_steps"]): row["total_seconds"]
        for _, row in speed.iterrows()
    }
    keys = list(zip(metrics["images_of"], metrics["decoder_steps"], metrics["sampler_steps"], strict=True))
    for place, name in enumerate(columns, 1):
        for decoder in dict.fromkeys(key[0] for key in keys if key in seconds):
            rows = [
                (seconds[key], value, key) for key, value in zip(keys, metrics[name], strict=True) if key in seconds
            ]
            rows = sorted((row for row in rows if row[2][0] == decoder), key=lambda row: row[0])
            trace = Scatter(
                x=[row[0] for row in rows],
                y=[row[1] for row in rows],
                text=[f"{row[2][2]} steps" for row in rows],
                textposition="top center",
                mode="lines+markers+text",
                name=f"{decoder}, decoding in {rows[0][2][1]} step{'s' if rows[0][2][1] > 1 else ''}",
                legendgroup=decoder,
                showlegend=place == 1,
                marker={"color": SHADES.get(decoder), "size": 10},
            )
            figure.add_trace(trace, row=1, col=place)
        for (row, _, _), value, shade in _references(keys, metrics[name], seconds):
            line = Scatter(
                x=[min(seconds.values()), max(seconds.values())],
                y=[value, value],
                mode="lines",
                name=row,
                legendgroup=row,
                showlegend=place == 1,
                line={"dash": "dot", "color": shade, "width": 1.5},
            )
            figure.add_trace(line, row=1, col=place)
        figure.update_xaxes(title_text="seconds per image, sampling and decoding", type="log", row=1, col=place)
        figure.update_yaxes(type="log", row=1, col=place)
    figure.update_layout(template="plotly_white", height=470, margin={"t": 90, "l": 50, "r": 30}, legend=LEGEND)
    return figure


def _references(keys: list[Any], values: Any, seconds: dict[Any, float]) -> list[Any]:
    """Returns key, value and colour of the rows that have no speed."""
    rows = [(key, value) for key, value in zip(keys, values, strict=True) if key not in seconds]
    return [(key, value, GREYS[number % len(GREYS)]) for number, (key, value) in enumerate(rows)]


def _title(name: str) -> str:
    return TITLES.get(name) or METRICS[name].title
