"""Training: typed configuration, one resumable loop, and the jobs that the stages run."""

from ssdd.parameters import (
    DistillConfig,
    EmaConfig,
    EvalConfig,
    GanConfig,
    LossWeights,
    OptimConfig,
    RuntimeConfig,
    TrainConfig,
)

__all__ = [
    "DistillConfig",
    "EmaConfig",
    "EvalConfig",
    "GanConfig",
    "LossWeights",
    "OptimConfig",
    "RuntimeConfig",
    "TrainConfig",
]
