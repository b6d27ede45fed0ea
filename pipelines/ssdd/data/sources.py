"""From parameters to a source of images."""

import difflib
from typing import Any

from .folder import ImageFolder, ImageNetFolder
from .huggingface import HuggingFaceImages
from .sample import EmbeddedSample
from .source import Source

KINDS: dict[str, type[Source]] = {
    "sample": EmbeddedSample,
    "folder": ImageFolder,
    "imagenet": ImageNetFolder,
    "huggingface": HuggingFaceImages,
}


def open_source(kind: str, path: str | None = None, **options: Any) -> Source:
    """Returns the source that a parameter file asks for.

    Args:
        kind: `sample` (embedded, needs no path), `folder`, `imagenet` or `huggingface`.
        path: the folder, or for `huggingface` a folder or an id on the hub.
        options: the other arguments of that source.

    Raises:
        ValueError: the kind is unknown, a path is missing or superfluous, an option does not fit, or nothing
            usable is there.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"expected a kind of source among {', '.join(KINDS)}, got {kind!r}{hint}")
    if (path is None) != (kind == "sample"):
        problem = f"got {path!r}: leave the path out" if path is not None else "got none: give its path"
        raise ValueError(f"expected {'no' if kind == 'sample' else 'a'} path for the source {kind!r}, {problem}")
    arguments = () if path is None else (path,)
    try:
        return KINDS[kind](*arguments, **options)
    except TypeError as error:
        raise ValueError(f"the source {kind!r} does not take these options, {sorted(options)}: {error}") from error
