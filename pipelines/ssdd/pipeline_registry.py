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
    "generate": (*_REPORT, "latents", "train_generator", "train_kl", "generate", "evaluate_samples"),
    "train_kl": (*_TEACHER, "train_kl"),
    "compare": (*_REPORT, "train_kl", "compare"),
    "robustness": (*_TEACHER, "distill", "train_kl", "evaluate", "robustness"),
    "release": (*_REPORT, "release"),
    "benchmark": (*_TEACHER, "distill", "evaluate", "benchmark"),
}

# Pipeline -> stage -> the results that alone are needed of it there.
PARTS = {
    "generate": {"train_kl": ("kl",)},
    "robustness": {"train_kl": ("kl",), "evaluate": ("reference_statistics",)},
}


def register_pipelines() -> dict[str, Pipeline]:
    """Returns every registered pipeline.

    Raises:
        ModuleNotFoundError: a stage named above does not exist.
    """
    stages = {stage for parts in PIPELINES.values() for stage in parts}
    created = {stage: import_module(f"ssdd.stages.{stage}.pipeline").create_pipeline() for stage in sorted(stages)}

    def part(pipeline: str, stage: str) -> Pipeline:
        results = PARTS.get(pipeline, {}).get(stage)
        return created[stage].to_outputs(*results) if results else created[stage]

    return {name: sum((part(name, stage) for stage in parts), Pipeline([])) for name, parts in PIPELINES.items()}
