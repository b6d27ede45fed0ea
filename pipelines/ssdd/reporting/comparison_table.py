"""The table of the comparison, and the quality of each side against its training cost."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

STUDENT = "student"
STAGE_1, STAGE_2, DISTILLATION, TARGETS = "stage 1", "stage 2", "distillation", "teacher targets"  # measured steps
KL, KL_ADVERSARIAL, FEED_FORWARD = "KL-VAE", "KL-VAE, adversarial", "feed-forward"


def comparison_table(reports: Sequence[dict[str, Any]], per_image: Sequence[Any], speed: Any) -> Any:
    """Puts quality, differences to the student, speed and memory of every row into one table.

    Args:
        reports: of all rows, with `model`, `steps` and `report` (see `MetricSuite.report`), in the order of the table.
        per_image: tables of values per image with the columns `model`, `steps` and `image`.
        speed: table of `measure_decoders`.

    Returns:
        a row for each model and number of steps: every figure with its interval; `<metric>_difference`, the mean of
        this row less the student over the same images, with its interval; `images_per_second_<P>` and `peak_bytes_<P>`
        at P pixels, and `parameters` (none for reference rows); the protocol.
    """
    import pandas

    values = pandas.concat([table for table in per_image if len(table)], ignore_index=True)
    students = [report["steps"] for report in reports if report["model"] == STUDENT]
    student = _values_of(values, STUDENT, min(students))
    rows = []
    for part in reports:
        report, own = part["report"], _values_of(values, part["model"], part["steps"])
        row: dict[str, Any] = {"model": part["model"], "steps": part["steps"], **report["metrics"]}
        for name, interval in report["intervals"].items():
            row |= {f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
        rows.append(row | _differences(student, own) | _speeds(speed, part) | {"protocol": _text(report["protocol"])})
    table = pandas.DataFrame(rows)
    return table[[name for name in table if name != "protocol"] + ["protocol"]]


def cost_table(
    histories: Mapping[str, Any],
    others: Mapping[str, Sequence[tuple[str, Any]]],
    plan: dict[str, Any],
    steps: Any,
    taught: int,
    sides: Mapping[str, int],
) -> Any:
    """Returns the quality on the way of each training, with the image views and seconds that it had cost by then.

    The periodic evaluations are of images as large as those of their training. Only those of the feed-forward
    decoder's size are in the table, since figures of other sizes cannot be compared with them.

    Seconds are those of one CPU thread (or of the GPU): what a step costs for each image, measured, times image views.
    SSDD's are those of all stages of its decoder and of the teacher's results. The training of the encoder itself is
    left out on both sides, since they share it.

    Args:
        histories: of SSDD's stages, by name; None where one did not run.
        others: the trainings of each other row, one after another: the kind of their step in `steps`, and the history.
        plan: of the comparison, with SSDD's image views by stage.
        steps: table of `measure_steps`.
        taught: images whose teacher results are computed once and kept; 0 where they are part of each step.
        sides: of the images of each stage and each other row, pixels.

    Returns:
        rows with `side`, `stage`, `views`, `seconds` and the metrics of the periodic evaluation.
    """
    import pandas

    seconds = dict(zip(steps["step"], steps["seconds_per_view"], strict=True))
    costs = {"pretrain": seconds[STAGE_1], "finetune": seconds[STAGE_2], "distill": seconds[DISTILLATION]}
    # The decoder's part of the joint training is a step of stage 1, on images of perhaps another size.
    costs["train_encoder"] = costs["pretrain"] * (sides["train_encoder"] / sides["pretrain"]) ** 2
    rows: list[dict[str, Any]] = []
    views, spent = 0.0, 0.0
    for stage, total in plan["views_by_stage"].items():
        is_student = stage == "distill"
        spent += taught * seconds.get(TARGETS, 0.0) if is_student else 0.0
        cost = costs[stage]
        side = "SSDD, student" if is_student else "SSDD, teacher"
        comparable = total and sides[stage] == sides[FEED_FORWARD]
        for share, figures in _evaluations(histories.get(stage)) if comparable else ():
            done = total * share
            rows.append(
                {"side": side, "stage": stage, "views": views + done, "seconds": spent + done * cost, **figures}
            )
        views, spent = views + total, spent + total * cost
    for name, trainings in others.items():
        views, spent = 0.0, 0.0
        for kind, history in trainings:
            total = plan["images"] * float(history["epoch"].max())
            for share, figures in _evaluations(history) if sides[name] == sides[FEED_FORWARD] else ():
                done = total * share
                cost = spent + done * seconds[kind]
                rows.append({"side": name, "stage": "train_kl", "views": views + done, "seconds": cost, **figures})
            views, spent = views + total, spent + total * seconds[kind]
    return pandas.DataFrame(rows)


def at_equal_cost(costs: Any, metric: str) -> dict[str, Any] | None:
    """Compares the student with the feed-forward decoder where that one had cost as much.

    Args:
        costs: of `cost_table`.
        metric: one of its columns.

    Returns:
        `student`, `feed_forward` (between its two nearest points; the last one if it never cost as much), `seconds` of
        the student, and `spent` of the feed-forward decoder; None where either side has no such value.
    """
    import numpy

    if metric not in costs:
        return None
    student = costs[costs["side"] == "SSDD, student"].dropna(subset=[metric])
    other = costs[costs["side"] == FEED_FORWARD].dropna(subset=[metric])
    if not len(student) or not len(other):
        return None
    last = student.iloc[-1]
    found = float(numpy.interp(last["seconds"], other["seconds"], other[metric]))
    spent = min(float(last["seconds"]), float(other["seconds"].max()))
    return {
        "student": float(last[metric]),
        "feed_forward": found,
        "seconds": float(last["seconds"]),
        "spent": spent,
    }


def quality_metric(columns: Any) -> str:
    """Returns the set distance that the figure of quality and speed shows: rFID, or else the best that is there."""
    order = ("rfid", "frechet_efficientnet", "fdd", "frechet_random_conv", "psnr")
    return next(name for name in order if name in columns)


def _evaluations(history: Any) -> list[tuple[float, dict[str, float]]]:
    """Returns the share of the training done and the figures of each periodic evaluation."""
    from ssdd_metrics.registry import METRICS

    if history is None or not len(history):
        return []
    rows = history[history["split"] == "eval"]
    last = float(history["epoch"].max())
    return [
        (row["epoch"] / last, {name: row[name] for name in METRICS if name in row and row[name] == row[name]})
        for row in rows.to_dict("records")
    ]


def _values_of(values: Any, model: str, steps: int) -> Any:
    return values[(values["model"] == model) & (values["steps"] == steps)]


def _differences(student: Any, own: Any) -> dict[str, float]:
    from ssdd_metrics import compare_tables

    drop = ["model", "steps", "path"]
    a, b = (table.drop(columns=drop).dropna(axis="columns", how="all") for table in (student, own))
    found: dict[str, float] = {}
    for metric, pair in compare_tables(a, b).items():
        found |= {
            f"{metric}_difference": pair.difference.mean,
            f"{metric}_difference_low": pair.difference.low,
            f"{metric}_difference_high": pair.difference.high,
        }
    return found


def _speeds(speed: Any, part: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in _values_of(speed, part["model"], part["steps"]).to_dict("records"):
        found["parameters"] = row["parameters"]
        found[f"images_per_second_{row['pixels']}"] = row["images_per_second"]
        found[f"peak_bytes_{row['pixels']}"] = row["peak_bytes"]
    return found


def _text(protocol: dict[str, Any]) -> str:
    return json.dumps(protocol, sort_keys=True)
