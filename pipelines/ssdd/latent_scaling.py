"""The scale and shift by which generators normalise latents, from the statistics of the run that made a model."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssdd_decoder.checkpoint import Contents
from ssdd_encoder import LatentStatistics

Normalization = Literal["overall", "channel", "none"]
SCALING_KEY = "latent_scaling"  # header entry: JSON of a `LatentScaling`, for latents of an autoencoder of others
STATISTICS_KEY = "latent_statistics"  # header entry: JSON of `LatentStatistics.to_dict`
STATISTICS_NAME = "latent_stats.json"  # what the stage `z_stats` leaves beside the models of a run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentScaling:
    """The numbers by which pipelines scale latents z: they generate (z - shift) * scale, by channel or as a whole.

    Args:
        scaling_factor: for all channels; every pipeline reads it.
        shift_factor: for all channels; pipelines of Stable Diffusion 3 and Flux read it, others know of none.
        latents_mean, latents_std: of each channel, for pipelines that normalise by channel (SDXL's and others).
    """

    scaling_factor: float = 1.0
    shift_factor: float = 0.0
    latents_mean: list[float] | None = None
    latents_std: list[float] | None = None


def scaling_of(statistics: LatentStatistics, normalization: Normalization) -> LatentScaling:
    """Returns the entries that give latents zero mean and unit deviation.

    Pipelines that know both kinds apply both, so that by channel the other entries must do nothing.

    Args:
        statistics: of the latents.
        normalization: `overall`, one scale and shift for all channels, which every pipeline understands; `channel`,
            a mean and a deviation for each; or `none`.

    Raises:
        ValueError: there is no such normalization, or the latents do not vary.
    """
    if normalization == "none":
        return LatentScaling()
    if normalization not in ("overall", "channel"):
        raise ValueError(f"expected normalization overall, channel or none, got {str(normalization)[:100]!r}")
    if not (statistics.overall_std > 0 and bool((statistics.std > 0).all())):
        raise ValueError(f"expected latents that vary, got standard deviations {statistics.std.tolist()}")
    if normalization == "channel":
        return LatentScaling(latents_mean=statistics.mean.tolist(), latents_std=statistics.std.tolist())
    return LatentScaling(1 / statistics.overall_std, statistics.overall_mean)


def find_scaling(contents: Contents) -> LatentScaling | None:
    """Returns the scaling in a checkpoint's header, that of the autoencoder whose latents it decodes; or None.

    Raises:
        ValueError: the entry is not readable.
    """
    if SCALING_KEY not in contents.metadata:
        return None
    values = _parsed(contents.metadata[SCALING_KEY], contents.file)
    try:
        return LatentScaling(**values)
    except TypeError as error:
        raise ValueError(f"expected the fields of a LatentScaling in {contents.file}, got {values}") from error


def find_statistics(contents: Contents) -> LatentStatistics | None:
    """Finds the statistics of a checkpoint's latents: in its header, else in a file beside it; None where none are.

    Raises:
        ValueError: what is there are no statistics.
    """
    if STATISTICS_KEY in contents.metadata:
        return LatentStatistics.from_dict(_parsed(contents.metadata[STATISTICS_KEY], contents.file))
    for name in (f"{contents.file.stem}.{STATISTICS_NAME}", STATISTICS_NAME):
        if (file := contents.file.with_name(name)).is_file():
            return read_statistics(file)
    logger.warning(
        "%s has no latent statistics, so its latents are not scaled: `kedro run --pipeline=z_stats` or `ssdd z-stats` "
        "computes them; pass their file as latent_statistics",
        contents.file,
    )
    return None


def choose_scaling(
    contents: Contents,
    statistics: LatentStatistics | str | os.PathLike[str] | None,
    normalization: Normalization | None,
) -> LatentScaling:
    """Returns the scaling of a checkpoint's latents.

    Args:
        contents: the checkpoint.
        statistics: of its latents, or their file; by default what `find_statistics` finds.
        normalization: see `scaling_of`; by default the scaling in its header, or else `overall`.

    Raises:
        ValueError: what is found are no statistics, or the normalization is unknown.
    """
    if normalization is None and statistics is None and (scaling := find_scaling(contents)) is not None:
        return scaling
    if isinstance(statistics, str | os.PathLike):
        statistics = read_statistics(statistics)
    elif statistics is None and normalization != "none":
        statistics = find_statistics(contents)
    return LatentScaling() if statistics is None else scaling_of(statistics, normalization or "overall")


def read_statistics(file: str | os.PathLike[str]) -> LatentStatistics:
    """Reads the file of the stage `z_stats` or of `ssdd z-stats`.

    Raises:
        ValueError: it holds no statistics.
    """
    return LatentStatistics.from_dict(_parsed(Path(file).read_text(encoding="utf-8"), file))


def _parsed(text: str, file: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"expected latent statistics as JSON in {file}, got {text[:100]!r}: make them again"
        ) from error
    if not isinstance(values, Mapping):
        raise ValueError(f"expected a table of latent statistics in {file}, got {text[:100]!r}: make them again")
    return dict(values)
