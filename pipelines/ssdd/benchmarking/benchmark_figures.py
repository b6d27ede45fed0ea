"""Pictures of the benchmark."""

from typing import Any

SIDES = {
    "ssdd": "SSDD",
    "ssdd_compiled": "SSDD, compiled",
    "dense": "its dense form",
    "kl": "KL autoencoder",
    "kl_compiled": "KL autoencoder, compiled",
}
QUALITY = [
    ("psnr", "PSNR (dB), higher is better"),
    ("rfid", "rFID, lower is better"),
    ("lpips_alex", "LPIPS, lower is better"),
    ("frechet_random_conv", "Frechet distance of random features, lower is better"),
]


def speed_figure(decoding: Any) -> Any:
    """Time per image and peak memory over the pixels, one line per side, size and dtype, at one step: plotly."""
    from plotly.colors import qualitative
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    panels = [("seconds", 1.0, "seconds per image"), ("peak_bytes", 2.0**30, "peak memory (GiB)")]
    figure = make_subplots(rows=1, cols=2, subplot_titles=[title for *_, title in panels])
    rows = decoding[(decoding["steps"] == 1) & (decoding["batch"] == decoding["batch"].min())]
    lines = list(rows.groupby(["size", "dtype", "side"], sort=False))
    colours = {size: colour for size, colour in zip(rows["size"].unique(), qualitative.D3, strict=False)}
    dashes = dict(zip(SIDES, ["solid", "longdash", "dot", "dash", "dashdot"], strict=True))
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
    """Quality over speed, as the paper draws it: one point per model and number of steps, a panel per metric."""
    from plotly.colors import qualitative
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    panels = [(name, title) for name, title in QUALITY if name in quality]
    figure = make_subplots(rows=1, cols=max(len(panels), 1), subplot_titles=[title for _, title in panels])
    for column, (name, _) in enumerate(panels, 1):
        for colour, (model, rows) in zip(qualitative.D3, quality.groupby("model", sort=False), strict=False):
            trace = Scatter(
                x=rows["images_per_second"].tolist(),
                y=rows[name].tolist(),
                text=[f"{steps} step{'s' if steps > 1 else ''}" for steps in rows["steps"]],
                textposition="top center",
                mode="markers+text",
                name=model,
                legendgroup=model,
                showlegend=column == 1,
                marker={"color": colour, "size": 12},
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text="images per second", type="log", row=1, col=column)
    figure.update_layout(template="plotly_white", height=420, margin={"t": 50, "l": 50, "r": 20, "b": 40})
    return figure
