"""Files of latents: one tensor per image in safetensors, and in the header what made them."""

# C latent channels, F down-scale, h w latent cells

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssdd.files import atomic_write
from ssdd_decoder import DecoderConfig

HEADER = "ssdd_latents"
_RESERVED = "__metadata__"


@dataclass(frozen=True, kw_only=True)
class LatentHeader:
    """What a reader of latents must know.

    Args:
        downscale: F.
        latent_channels: C.
        sizes: image name -> [height, width] in pixels, before padding.
        model: the encoder's file and its SHA-256.
        encoder: its configuration.
        precision: that it ran in.
        version: of ssdd.
    """

    downscale: int
    latent_channels: int
    sizes: dict[str, list[int]]
    model: dict[str, str]
    encoder: dict[str, Any]
    precision: str
    version: str


def write_latents(path: str | os.PathLike[str], latents: dict[str, Tensor], header: LatentHeader) -> None:
    """Writes latents whole or not at all.

    Args:
        path: the file.
        latents: image name -> (C, h, w).
        header: with the same names.

    Raises:
        ValueError: an image has a name that the format keeps for itself.
        OSError: the disk is full or not writable; the previous file is untouched.
    """
    if _RESERVED in latents:
        raise ValueError(f"expected image names other than {_RESERVED!r}: rename that file")
    with atomic_write(path) as temporary:
        try:
            save_file(
                {name: z.contiguous() for name, z in latents.items()}, temporary, {HEADER: json.dumps(asdict(header))}
            )
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def read_header(path: str | os.PathLike[str]) -> LatentHeader | None:
    """Reads the header of a file of latents; None for a safetensors file that is none.

    Raises:
        ValueError: the file is missing, damaged, or its header is of another version.
    """
    _, header = _open(Path(path), tensors=False)
    return header


def read_latents(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], LatentHeader]:
    """Reads latents (C, h, w) by image name, in the order of the names, and their header.

    Raises:
        ValueError: the file is missing, damaged, holds something else, or a name or size in it is not possible.
    """
    latents, header = _open(Path(path), tensors=True)
    if header is None:
        raise ValueError(f"expected latents of `ssdd encode`, got another safetensors file: {path}")
    if set(latents) != set(header.sizes):
        raise ValueError(f"{path} is damaged: its header and its tensors name different images")
    for name, z in latents.items():
        _check(name, z, header)
    return {name: latents[name] for name in sorted(latents)}, header


def check_fits(header: LatentHeader, decoder: DecoderConfig) -> None:
    """Refuses latents that a decoder cannot take.

    Raises:
        ValueError: the latent spaces differ.
    """
    if (header.downscale, header.latent_channels) != (decoder.downscale, decoder.latent_channels):
        raise ValueError(
            f"expected f{decoder.downscale}c{decoder.latent_channels} latents for this decoder, got "
            f"f{header.downscale}c{header.latent_channels}, made by {header.model.get('file')}: take a decoder trained "
            "with that encoder"
        )


def _open(path: Path, tensors: bool) -> tuple[dict[str, Tensor], LatentHeader | None]:
    if not path.is_file():
        raise ValueError(f"there is no file of latents at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(HEADER)
            header = LatentHeader(**json.loads(text)) if text is not None else None
            names = list(file.keys()) if tensors and header is not None else []
            return {name: file.get_tensor(name) for name in names}, header
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a whole file of latents ({error}): encode the images again") from error


def _check(name: str, z: Tensor, header: LatentHeader) -> None:
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name or "\0" in name:
        raise ValueError(f"expected image names below one folder, got {name!r}: this file of latents was tampered with")
    height, width = header.sizes[name]
    fits = z.ndim == 3 and z.shape[0] == header.latent_channels and z.is_floating_point()
    if not fits or not (0 < height <= z.shape[1] * header.downscale and 0 < width <= z.shape[2] * header.downscale):
        raise ValueError(
            f"{name!r} has latents of shape {tuple(z.shape)} for {height} x {width} pixels: encode it again"
        )
