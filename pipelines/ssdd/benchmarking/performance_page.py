"""The page with all measurements of the benchmark."""

from typing import Any

GIB = 2**30
DECODING = "size pixels batch steps dtype side s images/s ratio GFLOP GB GiB of_best finite rounds"
TRAINING = "comparison size pixels batch dtype side s ratio GiB_kept GiB rounds"


def performance_page(machine: dict[str, Any], decoding: Any, training: Any) -> str:
    """Writes all measurements, each with its spread, as one Markdown page.

    Args:
        machine: from `describe_machine`.
        decoding: table of `measure_decoding`.
        training: table of `measure_training`.
    """
    rates = ", ".join(f"{dtype} {rate / 1e12:.2f} TFLOP/s" for dtype, rate in machine["product_rate"].items())
    lines = [
        f"Machine: {machine['device']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"torch {machine['torch']}, Python {machine['python']}.",
        f"Measured at best: copies {machine['copy_bandwidth'] / 1e9:.1f} GB/s; products {rates}.",
        "",
        "Times are medians; a ratio is the median over rounds of this side's time over the first side's in the same",
        "round, its quartiles in brackets. Memory is the peak beyond the weights and inputs. Of best is the time that",
        "the counted products or traffic (each operator by itself) would take at best, over the time taken; on a GPU,",
        "where kernels fuse operators, that of the products alone. Recorded sides are replayed as a CUDA graph.",
        "",
        "### Decoding",
        "",
        *_table(DECODING, [_decoding_row(row) for _, row in decoding.iterrows()]),
        "",
        "### Training steps",
        "",
        "Forward, backward and AdamW. Kept is what the forward pass leaves for the backward pass.",
        "",
        *_table(TRAINING, [_training_row(row) for _, row in training.iterrows()]),
        "",
    ]
    return "\n".join(lines)


def _decoding_row(row: Any) -> list[Any]:
    return [
        *(row[name] for name in ("size", "pixels", "batch", "steps", "dtype", "side")),
        _seconds(row),
        f"{row['images_per_second']:.2f}",
        _ratio(row),
        f"{row['flops'] / 1e9:.0f}",
        f"{row['bytes'] / 1e9:.1f}",
        _gib(row),
        f"{100 * row['roofline']:.0f} %",
        "yes" if row["finite"] else "no",
        row["rounds"],
    ]


def _training_row(row: Any) -> list[Any]:
    return [
        *(row[name] for name in ("comparison", "size", "pixels", "batch", "dtype", "side")),
        _seconds(row),
        _ratio(row),
        _gib(row, "held_bytes"),
        _gib(row),
        row["rounds"],
    ]


def _seconds(row: Any) -> str:
    return f"{row['seconds']:.3f}" if row["seconds"] >= 0.1 else f"{row['seconds']:.5f}"


def _ratio(row: Any) -> str:
    return f"{row['ratio']:.2f} [{row['ratio_q25']:.2f}, {row['ratio_q75']:.2f}]"


def _gib(row: Any, name: str = "peak_bytes") -> str:
    # NaN, the one value that differs from itself, stands for a system that does not report memory.
    return f"{row[name] / GIB:.2f}" if row[name] == row[name] else "not known"


def _table(header: str, rows: list[list[Any]]) -> list[str]:
    titles = [title.replace("_", " ") for title in header.split()]
    lines = [titles, ["---"] * len(titles), *([str(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]
