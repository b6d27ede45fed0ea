"""`ssdd compare`: paired differences of two tables of per-image values."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssdd.commands import options
from ssdd.files import LFS_POINTER, LFS_REMEDY, first_bytes

if TYPE_CHECKING:
    import pandas

NOT_METRICS = ("model", "steps", "path")


@click.command(short_help="Paired differences of two evaluations.")
@click.argument("a", type=options.EXISTING_FILE)
@click.argument("b", type=options.EXISTING_FILE)
@click.option("--metrics", metavar="NAME,...", help="Columns to compare; by default all metrics in both tables.")
@click.option("--model-a", help="Use only the rows of A with this value in the column `model`.")
@click.option("--model-b", help="Use only the rows of B with this value in the column `model`.")
@click.option("--steps-a", type=int, help="Use only the rows of A with this value in the column `steps`.")
@click.option("--steps-b", type=int, help="Use only the rows of B with this value in the column `steps`.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Confidence level of the intervals.",
)
def compare(
    a: Path,
    b: Path,
    metrics: str | None,
    model_a: str | None,
    model_b: str | None,
    steps_a: int | None,
    steps_b: int | None,
    confidence: float,
) -> None:
    """Compare two tables of per-image values, A and B (Parquet or CSV), from evaluations on the same images.

    The command prints the mean of each table, the mean of the paired differences B - A, and its bootstrap confidence
    interval over images. If the interval excludes zero, other images would probably show a difference of the same sign.
    It does not cover the variation between training seeds.

    If a table holds several models or numbers of steps, choose one:

    \b
    ssdd compare teacher.parquet student.parquet --steps-a 8 --steps-b 1
    ssdd compare teacher.parquet teacher.parquet --steps-a 8 --steps-b 1 --metrics psnr,ssim_gaussian
    """
    from ssdd_metrics import compare_tables

    first, name_a = _choose(_read(a), a, "a", model_a, steps_a)
    second, name_b = _choose(_read(b), b, "b", model_b, steps_b)
    _check_paths(first, second)
    wanted = [name.strip() for name in metrics.split(",") if name.strip()] if metrics else None
    tables = [table.drop(columns=[c for c in NOT_METRICS if c in table]) for table in (first, second)]
    found = compare_tables(tables[0], tables[1], wanted, confidence)
    if not found:
        raise ValueError(f"expected a metric that both tables have, got {list(tables[0])} and {list(tables[1])}")
    _show(found, name_a, name_b, len(first), confidence)


def _read(file: Path) -> "pandas.DataFrame":
    import pandas

    try:
        return pandas.read_csv(file) if file.suffix.lower() == ".csv" else pandas.read_parquet(file)
    except (ValueError, OSError, KeyError) as error:
        if file.is_file() and first_bytes(file) == LFS_POINTER:
            raise ValueError(f"{file} {LFS_REMEDY}") from error
        raise ValueError(f"expected a table of per-image values in {file}, could not read one: {error}") from error


def _choose(
    table: "pandas.DataFrame", file: Path, side: str, model: str | None, steps: int | None
) -> "tuple[pandas.DataFrame, str]":
    """Returns the rows of one evaluation, and a name for it."""
    for column, value in (("model", model), ("steps", steps)):
        if value is None:
            continue
        held = sorted(table[column].unique().tolist()) if column in table else []
        if value not in held:
            raise ValueError(f"expected --{column}-{side} to be one of {held}, which {file} holds, got {value!r}")
        table = table[table[column] == value]
    columns = [column for column in ("model", "steps") if column in table]
    kinds = table[columns].drop_duplicates().to_dict("records") if columns else []
    if len(kinds) > 1:
        names = "; ".join(_name(kind) for kind in kinds)
        raise ValueError(f"{file} holds several evaluations ({names}): choose with --model-{side} or --steps-{side}")
    return table, _name(kinds[0]) if kinds else file.stem


def _name(kind: dict[str, Any]) -> str:
    model, steps = kind.get("model"), kind.get("steps")
    text = "" if steps is None else f"{steps} step{'' if steps == 1 else 's'}"
    return f"{model} {text}".strip() if model is not None else text


def _check_paths(a: "pandas.DataFrame", b: "pandas.DataFrame") -> None:
    """Refuses tables in which one number stands for two different images.

    Rows are paired by the image's number. Two sets of equal size would pair without an error, and mean nothing.
    """
    if not {"image", "path"} <= set(a) or not {"image", "path"} <= set(b):
        return
    both = a[["image", "path"]].merge(b[["image", "path"]], on="image", suffixes=("_a", "_b"))
    other = both[both["path_a"] != both["path_b"]]
    if len(other):
        row = other.iloc[0]
        raise ValueError(
            f"expected two tables of the same images, but image {row['image']} is {row['path_a']!r} in A and "
            f"{row['path_b']!r} in B: evaluate both on one set"
        )


def _show(found: dict[str, Any], name_a: str, name_b: str, images: int, confidence: float) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = Text(f"A: {name_a}, B: {name_b}, on {images} images")
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for heading in ("metric", "A", "B", "B - A", f"{100 * confidence:.4g} % interval", "B is"):
        left = heading in ("metric", "B is")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "B is")
    for metric, pair in found.items():
        d = pair.difference
        verdict = "not distinguishable" if not pair.significant else "higher" if d.low > 0 else "lower"
        left_out = f" ({d.infinite} infinite left out)" if d.infinite else ""
        table.add_row(
            Text(metric),
            *(f"{value:#.4g}" for value in (pair.a, pair.b)),
            f"{d.mean:+.3g}",
            f"{d.low:+.2g} .. {d.high:+.2g}",
            verdict + left_out,
        )
    Console().print(table)
