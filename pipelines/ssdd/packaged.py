"""The models that come with the package, by name: `SSDD.from_pretrained("demo")`, `ssdd ... --model demo`."""

import os
from pathlib import Path
from typing import Any

from ssdd.runs import looks_like_file

NAMES = ("demo",)
FOLDER = Path(__file__).parent / "models"  # <name>.safetensors, its stamp, and its card <name>.md


def model_file(name: str) -> Path:
    """Returns the file of a packaged model.

    Raises:
        CheckpointError: this installation has no such file.
    """
    file = FOLDER / f"{name}.safetensors"
    if not file.is_file():
        # Imported here, since torch comes with it: a command that only looks a name up must start at once.
        from ssdd_decoder import CheckpointError

        raise CheckpointError(
            f"the model {name!r} comes with ssdd, but this installation has no {file}: install ssdd again"
        )
    return file


def resolve(source: str | os.PathLike[str], name: str, **hub: Any) -> Path:
    """Finds a checkpoint as `ssdd_decoder.sources.resolve` does; after the disk, packaged models are looked up by name.

    Raises:
        CheckpointError: there is none.
    """
    from ssdd_decoder import CheckpointError, sources

    # A folder of that name without a checkpoint is something else, and must not hide the model.
    if str(source) in NAMES and not Path(source).is_file() and not any(Path(source).glob(f"*{sources.SUFFIX}")):
        return model_file(str(source))
    try:
        return sources.resolve(source, name, **hub)
    except CheckpointError as error:
        if os.path.lexists(source) or looks_like_file(str(source)):
            raise
        raise CheckpointError(f"{error}; models that come with ssdd: {', '.join(NAMES)}") from None
