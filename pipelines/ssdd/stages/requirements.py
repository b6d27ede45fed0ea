"""Requirements of nodes besides their inputs, checked before the first one runs: known names, pretrained networks."""

from collections.abc import Iterable, Sequence
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from ssdd.parameters import ModelParameters, PretrainedNetworks, StageParameters
from ssdd.suggestions import nearest


def check_names(nodes: Iterable[Node], catalog: CatalogProtocol) -> None:
    """Refuses unknown names of networks and metrics in the parameters of nodes.

    This is not part of the parameters' own types: these must be quick to import, and the names are in packages that
    import torch.

    Raises:
        ValueError: the message names the parameter, and the nearest right name.
    """
    for name, value in _parameters(nodes, catalog).items():
        if isinstance(value, ModelParameters):
            _check_networks(name, value)
        for field in ("metrics", "eval_metrics"):
            if hasattr(value, field):
                _check_metrics(f"{name}.{field}", getattr(value, field))
        if isinstance(value, StageParameters):
            _check_best(name, value)


def check_pretrained_networks(nodes: Iterable[Node], catalog: CatalogProtocol) -> None:
    """Finds, or downloads, and checks the pretrained networks that the parameters of nodes need.

    Raises:
        ValueError: one is missing or not the expected one; the message says which file to put where.
    """
    values = _parameters(nodes, catalog).values()
    needed = {network for value in values for network in getattr(value, "pretrained_networks", ())}
    if needed:
        from ssdd.evaluation.pretrained_networks import find_networks

        find_networks(sorted(needed), PretrainedNetworks.model_validate(catalog.load("params:pretrained_networks")))


def _parameters(nodes: Iterable[Node], catalog: CatalogProtocol) -> dict[str, Any]:
    names = sorted({name for node in nodes for name in node.inputs if name.startswith("params:")})
    return {name.removeprefix("params:"): catalog.load(name) for name in names}


def _check_networks(group: str, model: ModelParameters) -> None:
    from ssdd_decoder.config import SIZES
    from ssdd_encoder.config import SDVAE, VARIANTS, encoder_config

    try:
        encoder_config(model.encoder)
    except ValueError as error:
        known = [*(f"f{downscale}c4" for downscale in (4, 8, 16, 32, 64)), SDVAE, *VARIANTS]
        raise ValueError(f"parameter '{group}.encoder': {error}{nearest(model.encoder, known)}") from None
    if model.decoder not in SIZES:
        near = nearest(model.decoder, list(SIZES))
        raise ValueError(f"parameter '{group}.decoder': there is no decoder {model.decoder!r}{near}")


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
