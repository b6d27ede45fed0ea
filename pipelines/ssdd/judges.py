"""The pretrained judges of losses and metrics: found and checked when a run starts, loaded where they are asked."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ssdd.files import sha256_file
from ssdd.training.config import JudgeFile, JudgeFiles
from ssdd_metrics import find_judge, load_judge, load_lpips
from ssdd_metrics.dreamsim import dreamsim_sha256, find_dreamsim
from ssdd_metrics.judges import Judge

UNPUBLISHED = ("dinov2", "dreamsim")  # nobody made their hash known: the lineage would not notice another file


def find_judges(names: Iterable[str], files: JudgeFiles) -> dict[str, Path]:
    """Finds, or downloads, the weights of judges and checks their hashes, without building the networks.

    Args:
        names: of judges, see `JudgeFiles`.
        files: where they are and which they should be.

    Returns:
        their files.

    Raises:
        ValueError: a file is nowhere or not the expected one; says which file to put where.
    """
    return {name: _call(find_judge, name, files) for name in names}


def load_judges(names: Iterable[str], files: JudgeFiles) -> dict[str, Judge]:
    """Loads judges for a metric suite.

    Raises:
        ValueError: see `find_judges`.
    """
    return {name: _call(load_judge, name, files) for name in names}


def load_loss_judge(name: str, files: JudgeFiles) -> Judge:
    """Loads a judge for a loss: LPIPS with a gradient that is finite everywhere.

    Raises:
        ValueError: see `find_judges`.
    """
    if name == "lpips_vgg":
        return _call(lambda _, path, sha256: load_lpips("vgg", path, sha256, smooth=True), name, files)
    return _call(load_judge, name, files)


def _call(function: Any, name: str, files: JudgeFiles) -> Any:
    given: JudgeFile = getattr(files, name)
    path = Path(given.file).expanduser() if given.file else None
    try:
        found = function(name, path, given.sha256)
        if path is not None and given.sha256 is None and name in UNPUBLISHED:
            raise ValueError(
                "expected a SHA-256 beside the file, since none is published: if you mean this one, set "
                f"judges.{name}.sha256={_sha256(name, path)}"
            )
        return found
    except (ValueError, ImportError) as error:
        raise ValueError(f"{error} [judges.{name}.file, judges.{name}.sha256]") from error


def _sha256(name: str, path: Path) -> str:
    return dreamsim_sha256(find_dreamsim(path)) if name == "dreamsim" else sha256_file(path)
