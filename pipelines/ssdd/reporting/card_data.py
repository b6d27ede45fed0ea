"""The front matter of a model card: what the Hugging Face hub shows and searches by."""

from collections.abc import Mapping
from typing import Any

from ssdd.parameters import DataParameters

TAGS = ["image-tokenizer", "autoencoder", "flow-matching", "single-step-diffusion", "diffusers", "vae"]


def front_matter(run_name: str, metrics: Any, data: DataParameters | None) -> str:
    """Writes the front matter (YAML, without its two lines of dashes).

    Args:
        run_name: the model's name.
        metrics: table of `collect_metrics`, whose figures of the student (else the teacher) become results; or None.
        data: the images' source; or None.
    """
    from huggingface_hub import ModelCardData

    licence: dict[str, Any] = {"license": "other", "license_name": "state-it-here"}
    if data is not None and data.kind == "sample":
        licence = {"license": "apache-2.0"}
    results = [] if metrics is None else _results(metrics, data)
    card = ModelCardData(
        **licence,
        library_name="ssdd",
        pipeline_tag="image-to-image",
        tags=TAGS,
        datasets=[data.hub] if data is not None and data.hub else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=run_name,
        eval_results=results or None,
    )
    return card.to_yaml()


def _results(metrics: Any, data: DataParameters | None) -> list[Any]:
    from huggingface_hub import EvalResult

    from ssdd_metrics.registry import reported_metrics

    shown = reported_metrics(metrics)
    rows: list[Mapping[str, Any]] = metrics.to_dict("records")
    models = [row["model"] for row in rows]
    best = next((name for name in ("student", "teacher") if name in models), None)
    hub = data.hub if data is not None else None
    place: dict[str, Any] = {"dataset_type": hub or "images", "dataset_name": hub or "held-out images"}
    return [
        EvalResult(
            task_type="image-to-image",
            **place,
            metric_type=metric.name,
            metric_name=f"{metric.title}, {int(row['steps'])} step{'s' if row['steps'] > 1 else ''}",
            metric_value=round(float(row[metric.name]), 6),
        )
        for row in rows
        if row["model"] == best
        for metric in shown
        if row[metric.name] == row[metric.name]  # a figure that was not measured is NaN
    ]
