"""Figures of the benchmark: speed and memory over the resolution, quality over speed."""

from typing import Any

SIDES = {
    "ssdd": "SSDD",
    "ssdd_compiled": "SSDD, compiled",
    "dense": "its dense form",
    "kl": "KL autoencoder",
    "kl_compiled": "KL autoencoder, compiled",
    "ssdd_recorded": "SSDD, recorded",
    "kl_served": "KL autoencoder, as served",
    "kl_served_recorded": "KL autoencoder, as served, recorded",
}
DASHES = ["solid", "longdash", "dot", "dash", "dashdot", "longdashdot", "2px,6px", "8px,2px"]
PANELS_PER_ROW = 4


def speed_figure(decoding: Any) -> Any:
    """Draws time per image and peak memory over the pixels, at one step.

    Args:
        decoding: table of `measure_decoding`.

    Returns:
        A plotly figure with one line per side, size and dtype.
    """
    # Imported here, because the pipelines are registered at every command and must not wait for plotly.
    from plotly.colors import qualitative
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    panels = [("seconds", 1.0, "seconds per image"), ("peak_bytes", 2.0**30, "peak memory (GiB)")]
    figure = make_subplots(rows=1, cols=2, subplot_titles=[title for *_, title in panels])
    # One number of steps and one batch size, or a line would jump between cases that cannot be compared.
    rows = decoding[(decoding["steps"] == 1) & (decoding["batch"] == decoding["batch"].min())]
    lines = list(rows.groupby(["size", "dtype", "side"], sort=False))
    colours = {size: colour for size, colour in zip(rows["size"].unique(), qualitative.D3, strict=False)}
    dashes = dict(zip(SIDES, DASHES, strict=True))
    symbols = {"float32": "circle", "bfloat16": "diamond", "float16": "square"}
    for column, (name, unit, title) in enumerate(panels, 1):
        for (size, dtype, side), line in lines:
            line = line.sort_values("pixels")
            trace = Scatter(
                x=line["pixels"].tolist(),
                y=(line[name] / unit / (line["batch"] if name == "seconds" else 1)).tolist(),
                name=f"{SIDES[side]}{'' if side.startswith('kl') else ' ' + size}, {dtype}",
                legendgroup=f"{size} {dtype} {side}",
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": "black" if side.startswith("kl") else colours[size], "dash": dashes[side]},
                marker={"symbol": symbols[dtype]},
            )
            figure.add_trace(trace, row=1, col=column)
        ticks = sorted(rows["pixels"].unique().tolist())
        figure.update_xaxes(title_text="side (pixels)", type="log", tickvals=ticks, row=1, col=column)
        figure.update_yaxes(type="log", title_text=title, row=1, col=column)
    figure.update_layout(template="plotly_white", height=480, margin={"t": 50, "l": 50, "r": 20, "b": 40})
    return figure


def quality_figure(quality: Any) -> Any:
    """Draws quality over speed, as the paper does: one point per model and number of steps.

    Args:
        quality: table of `measure_quality`.

    Returns:
        A plotly figure with a panel for each metric that reports show.
    """
    from plotly.colors import qualitative
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    from ssdd_metrics.registry import reported_metrics

    panels = reported_metrics(quality)
    titles = [f"{metric.title}<br>{metric.direction}" for metric in panels]
    lines, width = -(-len(panels) // PANELS_PER_ROW) or 1, min(len(panels), PANELS_PER_ROW) or 1
    figure = make_subplots(rows=lines, cols=width, subplot_titles=titles)
    for number, metric in enumerate(panels):
        place = {"row": number // PANELS_PER_ROW + 1, "col": number % PANELS_PER_ROW + 1}
        for colour, (model, rows) in zip(qualitative.D3, quality.groupby("model", sort=False), strict=False):
            trace = Scatter(
                x=rows["images_per_second"].tolist(),
                y=rows[metric.name].tolist(),
                text=[f"{steps} step{'s' if steps > 1 else ''}" for steps in rows["steps"]],
                textposition="top center",
                mode="markers+text",
                name=model,
                legendgroup=model,
                showlegend=number == 0,
                marker={"color": colour, "size": 12},
            )
            figure.add_trace(trace, **place)
        figure.update_xaxes(title_text="images per second", type="log", **place)
    figure.update_layout(template="plotly_white", height=420 * lines, margin={"t": 70, "l": 50, "r": 20, "b": 40})
    return figure
