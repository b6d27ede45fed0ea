"""Shared by the stages that evaluate: the measurement that parameters describe, and its results as catalog entries."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdd.parameters import DataParameters, EvaluateParameters, PretrainedNetworks, RuntimeConfig

if TYPE_CHECKING:
    from ssdd.evaluation.final import Measurement


def measurement_of(
    index: Any,
    references: Path,
    data: DataParameters,
    parameters: EvaluateParameters,
    pretrained_networks: PretrainedNetworks,
    runtime: RuntimeConfig,
) -> "Measurement":
    """Returns the held-out images and how reconstructions of them are measured."""
    from ssdd.data.image_sets import held_out_images
    from ssdd.evaluation.final import Measurement

    return Measurement(
        dataset=held_out_images(index, data, parameters.im_size, parameters.limit),
        parameters=parameters,
        references=references,
        pretrained_networks=pretrained_networks,
        runtime=runtime,
    )


def results_of(model: str, found: list[Any], dataset: Any, checkpoint: Path) -> tuple[Path, Any, list[dict[str, Any]]]:
    """Returns pictures (safetensors, by path), a table of per-image values, and a report per row.

    Args:
        model: name of the file of pictures, and of rows that have none.
        found: the `Evaluated` rows; empty except on rank 0.
        dataset: the images.
        checkpoint: returned by the other ranks, which save nothing.
    """
    from ssdd.processes import is_main

    if not is_main():
        return checkpoint, None, []
    rows = [(part.name or f"steps{part.steps}", part.pictures) for part in found]
    pictures = {f"{row}.{name}": tensor for row, kept in rows for name, tensor in kept.items()}
    return save_pictures(f"{model}_reconstructions", pictures), *tables_of(model, found, dataset)


def tables_of(model: str, found: list[Any], dataset: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Returns a table of per-image values and a report per row; nothing except on rank 0. See `results_of`."""
    import pandas

    if not found:
        return None, []
    tables = [
        pandas.DataFrame(
            {"model": part.name or model, "steps": part.steps, "path": _paths(dataset, part), **part.per_image}
        )
        for part in found
    ]
    reports = [{"model": part.name or model, "steps": part.steps, "report": part.report} for part in found]
    return pandas.concat(tables, ignore_index=True), reports


def save_pictures(name: str, pictures: dict[str, Any]) -> Path:
    """Writes tensors to the node's folder, from where the catalog takes the file."""
    from safetensors.torch import save_file

    from ssdd.files import atomic_write
    from ssdd.lineage import state_folder

    file = state_folder() / f"{name}.safetensors"
    with atomic_write(file) as temporary:
        save_file({key: tensor.contiguous() for key, tensor in pictures.items()}, temporary)
    return file


def _paths(dataset: Any, part: Any) -> list[str]:
    return [dataset.path(int(number)) for number in part.per_image["image"]]
