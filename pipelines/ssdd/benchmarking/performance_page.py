"""The pages with the measurements of the benchmark."""

from typing import Any

from ssdd.benchmarking.exported_sides import SIDES, USABLE

GIB = 2**30
DECODING = "size pixels batch steps dtype side s images/s ratio GFLOP GB GiB of_best finite rounds"
EXPORTED = "decoder pixels runtime numbers s images/s ratio MB loss_(dB) rounds"
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


def exported_page(machine: dict[str, Any], exported: Any) -> str:
    """Writes the measurements of exported decoders, and names the fastest usable side of each.

    Args:
        machine: from `describe_machine`.
        exported: table of `measure_exported`.
    """
    measured = exported[exported["seconds"].notna()]
    missing = dict.fromkeys(reason for reason in exported["missing"] if isinstance(reason, str) and reason)
    rows = [row for _, row in measured.iterrows()]
    lines = [
        f"Machine: {machine['device']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"torch {machine['torch']}, Python {machine['python']}.",
        "",
        "One image, one step. Times are medians; a ratio is the median over rounds of this side's time over that of",
        "the size's first row in the same round, its quartiles in brackets. Loss is the PSNR of the decoder's first",
        f"side minus that of this side, on held-out photographs; {USABLE} dB or more is not usable. Decoders without",
        "a loss have random weights.",
        "",
        *_table(EXPORTED, [_exported_row(row) for row in rows]),
        "",
    ]
    for (decoder, pixels), group in measured.groupby(["decoder", "pixels"], sort=False):
        best = group[~(group["loss"] >= USABLE)].nsmallest(1, "seconds").iloc[0]
        runtime, numbers = SIDES[best["side"]]
        lines.append(f"* Fastest for {decoder} at {pixels} px: {runtime}, {numbers}.")
    lines += [f"* Left out: {reason}" for reason in missing]
    return "\n".join([*lines, ""])


def _exported_row(row: Any) -> list[Any]:
    return [
        row["decoder"],
        row["pixels"],
        *SIDES[row["side"]],
        _seconds(row),
        f"{1 / row['seconds']:.2f}",
        _ratio(row),
        f"{row['file_bytes'] / 1e6:.0f}" if row["file_bytes"] == row["file_bytes"] else "",
        f"{row['loss']:.3f}" if row["loss"] == row["loss"] else "",
        int(row["rounds"]),
    ]


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
