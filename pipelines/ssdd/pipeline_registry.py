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
    "latents": (*_ENCODER, "latents"),
    "pretrain": (*_ENCODER, "pretrain"),
    "finetune": _TEACHER,
    "distill": _REPORT,
    "evaluate": (*_TEACHER, "distill", "evaluate"),
    "report": _REPORT,
    "train_generator": (*_ENCODER, "latents", "train_generator"),
    "generate": (*_REPORT, "latents", "train_generator", "generate", "evaluate_samples"),
    "train_kl": (*_TEACHER, "train_kl"),
    "compare": (*_REPORT, "train_kl", "compare"),
    "robustness": (*_TEACHER, "distill", "train_kl", "evaluate", "robustness"),
    "release": (*_REPORT, "release"),
    "benchmark": (*_TEACHER, "distill", "evaluate", "benchmark"),
}

# Pipeline -> the results for which alone it runs, where it does not need all nodes of its stages.
RESULTS = {"robustness": ("robustness", "robustness_figure", "robustness_pictures")}


def register_pipelines() -> dict[str, Pipeline]:
    """Returns every registered pipeline.

    Raises:
        ModuleNotFoundError: a stage named above does not exist.
    """
    stages = {stage for parts in PIPELINES.values() for stage in parts}
    created = {stage: import_module(f"ssdd.stages.{stage}.pipeline").create_pipeline() for stage in sorted(stages)}
    whole = {name: sum((created[stage] for stage in parts), Pipeline([])) for name, parts in PIPELINES.items()}
    return whole | {name: whole[name].to_outputs(*results) for name, results in RESULTS.items()}
