"""Checks before the first node runs: names in parameters must exist, and pretrained networks must be there.

The alternative is an error in the tenth hour, when the stage that needs the network begins.
"""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from ssdd.comparison_parameters import MODEL_FILES, CompareParameters
from ssdd.generation_parameters import GeneratorParameters, LatentsParameters, SpeedOfSpaces
from ssdd.parameters import ModelParameters, PretrainedNetworks, StageParameters
from ssdd.runs import known_runs, looks_like_file, run_folder
from ssdd.suggestions import nearest

IMPORTED = "diffusers"  # as ssdd.diffusers_encoders.NAME, whose import would load torch


def check_names(nodes: Sequence[Node], catalog: CatalogProtocol) -> None:
    """Refuses unknown networks and metrics in the parameters of nodes.

    Raises:
        ValueError: names the parameter, and the nearest known name.
    """
    # Here and not in the validators of the parameters' types: every command imports those, and the networks' packages
    # import torch.
    parameters = _parameters(nodes, catalog)
    _check_sides(nodes, parameters)
    for name, value in parameters.items():
        if isinstance(value, GeneratorParameters):
            _check_generator(name, value)
        if isinstance(value, SpeedOfSpaces):
            _check_speed(name, value)
        if isinstance(value, ModelParameters):
            _check_networks(name, value)
            _check_imported(name, value, nodes)
        if isinstance(value, CompareParameters):
            _check_rows(name, value)
        for field in ("metrics", "eval_metrics"):
            if hasattr(value, field):
                _check_metrics(f"{name}.{field}", getattr(value, field))
        if isinstance(value, StageParameters):
            _check_best(name, value)
            _check_noise(name, value)


def check_pretrained_networks(nodes: Iterable[Node], catalog: CatalogProtocol) -> None:
    """Finds, or downloads, and checks the pretrained networks that the parameters of nodes ask for.

    Raises:
        ValueError: one is missing or is not the expected file; the message names the file and its place.
    """
    values = _parameters(nodes, catalog).values()
    needed = {network for value in values for network in getattr(value, "pretrained_networks", ())}
    if needed:  # torch is imported for it, and most plans need none
        from ssdd.evaluation.pretrained_networks import find_networks

        find_networks(sorted(needed), PretrainedNetworks.model_validate(catalog.load("params:pretrained_networks")))


def _parameters(nodes: Iterable[Node], catalog: CatalogProtocol) -> dict[str, Any]:
    names = sorted({name for node in nodes for name in node.inputs if name.startswith("params:")})
    return {name.removeprefix("params:"): catalog.load(name) for name in names}


def _check_networks(group: str, model: ModelParameters) -> None:
    from ssdd_decoder.config import SIZES
    from ssdd_encoder.config import SDVAE, VARIANTS, encoder_config

    try:
        if model.encoder != IMPORTED:
            encoder_config(model.encoder)
    except ValueError as error:
        known = [*(f"f{downscale}c4" for downscale in (4, 8, 16, 32, 64)), SDVAE, IMPORTED, *VARIANTS]
        raise ValueError(f"parameter '{group}.encoder': {error}{nearest(model.encoder, known)}") from None
    if model.decoder not in SIZES:
        near = nearest(model.decoder, list(SIZES))
        raise ValueError(f"parameter '{group}.decoder': there is no decoder {model.decoder!r}{near}")


def _check_generator(group: str, stage: GeneratorParameters) -> None:
    from ssdd.generation.generator import SIZES

    if stage.size not in SIZES:
        near = nearest(stage.size, list(SIZES))
        raise ValueError(f"parameter '{group}.size': there is no generator {stage.size!r}{near}")
    if find_spec("diffusers") is None:
        raise ValueError(f"{group} needs diffusers' transformer: pip install 'ssdd[diffusers]'")


def _check_speed(group: str, speed: SpeedOfSpaces) -> None:
    from ssdd.generation.generator import SIZES
    from ssdd_decoder.config import SIZES as DECODERS

    for field, known in (("size", SIZES), ("decoder", DECODERS)):
        if (value := getattr(speed, field)) not in known:
            raise ValueError(f"parameter '{group}.{field}': there is no {value!r}{nearest(value, list(known))}")


def _check_sides(nodes: Sequence[Node], parameters: dict[str, Any]) -> None:
    """Refuses samples of another size than the held-out images that they are measured against."""
    latents, side = parameters.get("latents"), parameters.get("evaluate.im_size")
    if not isinstance(latents, LatentsParameters) or side in (None, latents.im_size):
        return
    if any(node.namespace == "evaluate_samples" for node in nodes):
        raise ValueError(
            f"expected samples as large as the held-out images, got latents.im_size {latents.im_size} and "
            f"evaluate.im_size {side}: set both to one size"
        )


def _check_rows(group: str, compare: CompareParameters) -> None:
    project = Path.cwd()
    for item in compare.runs:
        models = run_folder(project, item.run) / "models"
        if not any((models / file).is_file() for file in MODEL_FILES):
            runs = known_runs(project)
            near = nearest(item.run, runs) if item.run not in runs else ""
            raise ValueError(
                f"parameter '{group}.runs': the run {item.run!r} has no model, expected one in {models}{near}"
            )
    for source in (item.source for item in compare.tokenizers):
        # What is neither a folder nor written like a path is a hub id, and is looked for when the run begins.
        folder = Path(source).expanduser()
        is_path = folder.exists() or source.startswith((".", "/", "~")) or not looks_like_file(source)
        if is_path and not any((place / "config.json").is_file() for place in (folder, folder / "vae")):
            raise ValueError(
                f"parameter '{group}.tokenizers': expected a folder with the config.json of a diffusers autoencoder, "
                f"or a hub id owner/name, got {source!r}"
            )


def _check_imported(group: str, model: ModelParameters, nodes: Iterable[Node]) -> None:
    if model.encoder == IMPORTED and any(node.namespace == "train_encoder" for node in nodes):
        raise ValueError(
            f"parameter '{group}.encoder': an encoder of {IMPORTED} is trained already: set encoder_checkpoint to the "
            "folder or hub id of its autoencoder"
        )


def _check_noise(group: str, stage: StageParameters) -> None:
    if group == "train_encoder" and stage.latent_noise:
        raise ValueError(
            f"parameter '{group}.latent_noise': expected latent_noise 0 while the encoder trains, got "
            f"{stage.latent_noise}: its latents have no fixed deviation yet; set pretrain.latent_noise and the like"
        )


def _check_metrics(parameter: str, metrics: str | Sequence[str]) -> None:
    from ssdd_metrics.registry import metric_names

    try:
        metric_names(metrics)
    except ValueError as error:
        raise ValueError(f"parameter {parameter!r}: {error}") from None


def _check_best(group: str, stage: StageParameters) -> None:
    from ssdd_metrics.registry import metric_names

    figures = metric_names(stage.eval_metrics)
    if stage.best_metric not in figures:
        raise ValueError(
            f"parameter '{group}.best_metric': {stage.best_metric!r} is not among the metrics of {group}.eval_metrics"
            f"{nearest(stage.best_metric, figures)}"
        )
