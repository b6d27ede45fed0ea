"""Shards of latents by the names of their images, as `ssdd decode` and `ssdd info` read them."""

# C latent channels, h w latent cells

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssdd.generation.latent_manifest import VERSION, read_manifest
from ssdd.imaging.latent_files import check_entry
from ssdd.imaging.latent_header import SHARD_HEADER, LatentHeader

_FACTS = ("encoder", "downscale", "latent_channels", "im_size", "precision", "paths", "split", "version")


class ShardedLatents:
    """The means of all images of a folder of shards, or of one shard; each is read on access.

    Args:
        path: the folder, or the shard.

    Attributes:
        header: sizes of the images, and what made the latents.
        shapes: (C, h, w) of each image.

    Raises:
        ValueError: a shard is missing or damaged, or a name in it is impossible.
    """

    def __init__(self, path: Path) -> None:
        files = [path / shard.file for shard in read_manifest(path).shards] if path.is_dir() else [path]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[Any, int]] = {}
        headers = [self._add(file) for file in files]
        first, side = headers[0], headers[0]["im_size"]
        self.header = LatentHeader(
            downscale=first["downscale"],
            latent_channels=first["latent_channels"],
            sizes={name: [side, side] for name in self.shapes},
            model={"file": first["encoder"]["file"], "sha256": first["encoder"]["sha256"]},
            encoder=first["encoder"]["config"],
            precision=first["precision"],
            version=f"shards, version {VERSION}",
        )
        for name, (means, _) in self._places.items():
            check_entry(name, self.shapes[name], means.get_dtype(), self.header)

    def __getitem__(self, name: str) -> Tensor:
        """Reads the mean (C, h, w) of an image."""
        means, row = self._places[name]
        found: Tensor = means[row]
        return found

    def _add(self, path: Path) -> dict[str, Any]:
        try:
            file = safe_open(path, framework="pt")
            header = json.loads(file.metadata()[SHARD_HEADER])
            facts = {name: header[name] for name in _FACTS}
            means = file.get_slice("mean")
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no whole shard of latents ({error}): write the latents again") from error
        if facts["version"] != VERSION or len(facts["paths"]) != means.get_shape()[0]:
            raise ValueError(
                f"expected a shard of version {VERSION} with a name for each latent, got version {facts['version']} "
                f"and {len(facts['paths'])} names in {path}: write the latents again"
            )
        for row, name in enumerate(facts["paths"]):
            self.shapes[name], self._places[name] = tuple(means.get_shape()[1:]), (means, row)
        return facts
