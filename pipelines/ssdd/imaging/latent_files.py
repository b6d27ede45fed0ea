"""Files of latents: safetensors with one tensor per image, and the origin of the latents in the header."""

# C latent channels, F down-scale, h w latent cells

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ssdd.data.decoding import BadImage, Reason
from ssdd.files import atomic_write
from ssdd.imaging.latent_header import HEADER, LatentHeader, damaged, parse_header
from ssdd.imaging.shared_files import Share
from ssdd_decoder import DecoderConfig

_RESERVED = "__metadata__"
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' readers refuse a longer one, and so a file that was written whole
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16"}


class LatentWriter:
    """Writes latents one after another: first to `spool`, and at the end to the file, behind their header.

    safetensors' own `save_file` takes all tensors at once. This writer holds none of them in memory, so that a folder
    of any size can be encoded.

    Args:
        spool: a temporary file.
    """

    def __init__(self, spool: BinaryIO) -> None:
        self.sizes: dict[str, list[int]] = {}
        self._spool = spool
        self._tensors: dict[str, dict[str, Any]] = {}

    def add(self, name: str, z: Tensor, size: tuple[int, int]) -> None:
        """Takes the latent (C, h, w) of an image of (height, width) pixels.

        Raises:
            BadImage: the image has a name that the format reserves.
            OSError: the disk is full or not writable.
        """
        if name == _RESERVED:
            raise BadImage(Reason.REFUSED_NAME, "rename it: files of latents reserve that name")
        begin = self._spool.tell()
        self._spool.write(z.contiguous().view(torch.uint8).cpu().numpy().tobytes())
        place = [begin, self._spool.tell()]
        self._tensors[name] = {"dtype": _DTYPES[z.dtype], "shape": list(z.shape), "data_offsets": place}
        self.sizes[name] = list(size)

    def bring_together(self, path: Path, share: Share) -> None:
        """Adds the latents of all ranks to those of rank 0; all ranks call it, on a disk that they share.

        Args:
            path: of the file that rank 0 will write; the other ranks leave theirs beside it for a moment.
            share: of this process.

        Raises:
            OSError: the disk is full or not writable.
        """
        digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        parts = [path.with_name(f".latents-{digest}.rank-{rank}") for rank in range(share.ranks)]
        if not share.leads:
            self._spool.seek(0)
            with atomic_write(parts[share.rank]) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(self._spool, file, 2**20)
        tables = share.together([(self._tensors, self.sizes)])
        for part, (tensors, sizes) in list(zip(parts, tables, strict=True))[1:] if share.leads else ():
            begin = self._spool.tell()
            with open(part, "rb") as file:
                shutil.copyfileobj(file, self._spool, 2**20)
            part.unlink()
            for name, entry in tensors.items():
                place = [begin + offset for offset in entry["data_offsets"]]
                self._tensors[name] = entry | {"data_offsets": place}
            self.sizes |= sizes

    def finish(self, path: str | os.PathLike[str], header: LatentHeader) -> None:
        """Writes the file as a whole, and reads its header back before the file gets its name.

        Raises:
            ValueError: there are more names than the format can hold, or the file does not read as it was written.
            OSError: the disk is full or not writable; the previous file is untouched.
        """
        text = json.dumps({_RESERVED: {HEADER: json.dumps(asdict(header))}, **self._tensors}).encode()
        text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes, so that readers can map them
        if len(text) > _LONGEST_HEADER:
            raise ValueError(
                f"expected names of at most {_LONGEST_HEADER:,} bytes in one file, got {len(text):,} for "
                f"{len(self.sizes):,} images: encode them in several parts"
            )
        self._spool.seek(0)
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(self._spool, file, 2**20)
            file.flush()
            if asdict(StoredLatents(temporary).header) != json.loads(json.dumps(asdict(header))):
                raise ValueError(f"{path} was not written: its header does not read as it was made")


class NamedLatents(Protocol):
    """Latents by the names of their images, with the facts that decoding needs.

    Attributes:
        header: sizes of the images, and what made the latents.
        shapes: (C, h, w) of each.
    """

    header: LatentHeader
    shapes: dict[str, tuple[int, ...]]

    def __getitem__(self, name: str) -> Tensor:
        """Reads the latent (C, h, w) of an image."""


class StoredLatents:
    """Latents of a file; each is read on access.

    Args:
        path: the file.

    Raises:
        ValueError: the file is missing, damaged or of another kind, or a name or size in it is impossible.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not Path(path).is_file():
            raise ValueError(f"there is no file of latents at {path}")
        try:
            self._file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise damaged(Path(path), error) from error
        text = (self._file.metadata() or {}).get(HEADER)
        if text is None:
            raise ValueError(f"expected latents of `ssdd encode`, got another safetensors file: {path}")
        header = parse_header(text, Path(path))
        if set(self._file.keys()) != set(header.sizes):
            raise ValueError(f"{path} is damaged: its header and its tensors name different images")
        self.header = header
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name in sorted(header.sizes):
            part = self._file.get_slice(name)
            self.shapes[name] = tuple(part.get_shape())
            check_entry(name, self.shapes[name], part.get_dtype(), header)

    def __getitem__(self, name: str) -> Tensor:
        """Reads the latent (C, h, w) of an image."""
        return self._file.get_tensor(name)


def check_fits(header: LatentHeader, decoder: DecoderConfig) -> None:
    """Refuses latents that a decoder cannot take.

    Raises:
        ValueError: the latent spaces differ.
    """
    downscale = decoder.downscale // decoder.upscale
    if (header.downscale, header.latent_channels) != (downscale, decoder.latent_channels):
        raise ValueError(
            f"expected f{downscale}c{decoder.latent_channels} latents for this decoder, got "
            f"f{header.downscale}c{header.latent_channels}, made by {header.model.get('file')}: take a decoder trained "
            "with that encoder"
        )


def check_entry(name: str, shape: tuple[int, ...], dtype: str, header: LatentHeader) -> None:
    """Refuses a name that would lead out of the output folder, and a latent that does not fit its image.

    Raises:
        ValueError: says which.
    """
    # Names become paths below the output folder: a file from somebody else must not write anywhere else.
    if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).name or "\0" in name:
        raise ValueError(f"expected image names below one folder, got {name!r}: this file of latents was tampered with")
    height, width = header.sizes[name]
    fits = len(shape) == 3 and shape[0] == header.latent_channels and dtype in ("F64", "F32", "F16", "BF16")
    if not fits or not (0 < height <= shape[1] * header.downscale and 0 < width <= shape[2] * header.downscale):
        raise ValueError(f"{name!r} has latents of shape {shape} for {height} x {width} pixels: encode it again")
