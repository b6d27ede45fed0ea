"""Scalars and image grids for TensorBoard, Weights & Biases or MLflow, through accelerate's trackers."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ssdd_metrics import to_uint8


def check_trackers(names: Sequence[str]) -> None:
    """Makes sure that the requested trackers are installed, whose packages have the same names.

    Raises:
        ValueError: one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(
                f"expected the tracker {name!r} to be installed, it is not: "
                f"pip install {name}, or take it out of runtime.trackers"
            )


def start_trackers(accelerator: Accelerator, folder: Path, settings: dict[str, Any], step: int) -> None:
    """Opens the trackers, with the run's settings; for Weights & Biases and MLflow each session is a separate run.

    TensorBoard drops the values that an interrupted session logged past `step`. Weights & Biases writes to the run's
    folder (offline with WANDB_MODE=offline), MLflow to MLFLOW_TRACKING_URI.
    """
    if accelerator.log_with:
        options = {"tensorboard": {"purge_step": step + 1}, "wandb": {"dir": str(folder)}}
        accelerator.init_trackers(folder.name, config=_flat(settings), init_kwargs=options)


def log_images(accelerator: Accelerator, name: str, images: Tensor, step: int) -> None:
    """Shows images.

    Args:
        accelerator: holds the trackers.
        name: title.
        images: (N, 3, H, W) in [-1, 1]; values outside are clamped.
        step: finished optimiser steps.
    """
    # accelerate's own log_images fits none of the three: it passes one array on, and each tracker needs another form.
    pixels = to_uint8(images.float().add(1).div(2).clamp(0, 1))
    arrays = pixels.permute(0, 2, 3, 1).cpu().numpy()  # (N, H, W, 3)
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: arrays}, step=step, dataformats="NHWC")
        elif tracker.name == "wandb":
            tracker.log_images({name: list(arrays)}, step=step)
        elif tracker.name == "mlflow" and accelerator.is_main_process:
            import mlflow

            for index, array in enumerate(arrays):
                mlflow.log_image(array, key=f"{name}_{index}", step=step)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat
