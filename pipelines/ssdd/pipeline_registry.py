"""The pipelines by name. Each contains all stages that it needs: those before it run when they are stale."""

from importlib import import_module

from kedro.pipeline import Pipeline

# Written out, since Kedro's find_pipelines() imports only the stage that is named and cannot combine several.
# Pipeline -> its stages, each a module `ssdd.stages.<stage>.pipeline` with `create_pipeline()`
_ENCODER = ("prepare", "train_encoder")
_TEACHER = (*_ENCODER, "pretrain", "finetune")
_REPORT = (*_TEACHER, "distill", "evaluate", "z_stats", "report")
PIPELINES: dict[str, tuple[str, ...]] = {
    "__default__": _REPORT,
    "prepare": ("prepare",),
    "pack": ("prepare", "pack"),
    "train_encoder": _ENCODER,
    "z_stats": (*_ENCODER, "z_stats"),
    "pretrain": (*_ENCODER, "pretrain"),
    "finetune": _TEACHER,
    "distill": _REPORT,
    "evaluate": (*_TEACHER, "distill", "evaluate"),
    "report": _REPORT,
    "train_kl": (*_TEACHER, "train_kl"),
    "compare": (*_REPORT, "train_kl", "compare"),
    "release": (*_REPORT, "release"),
    "benchmark": (*_TEACHER, "distill", "evaluate", "benchmark"),
}


def register_pipelines() -> dict[str, Pipeline]:
    """Returns every registered pipeline.

    Raises:
        ModuleNotFoundError: a stage named above does not exist.
    """
    stages = {stage for parts in PIPELINES.values() for stage in parts}
    created = {stage: import_module(f"ssdd.stages.{stage}.pipeline").create_pipeline() for stage in sorted(stages)}
    return {name: sum((created[stage] for stage in parts), Pipeline([])) for name, parts in PIPELINES.items()}
