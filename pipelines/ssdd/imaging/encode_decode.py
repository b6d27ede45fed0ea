"""Encoding and decoding of whole folders: images to latents, latents to images, images to reconstructions."""

# B batch, C latent channels, h w latent cells

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.data.decoding import BadImage
from ssdd.data.source import Rejection
from ssdd.encoders import AnyEncoder
from ssdd.files import atomic_write
from ssdd.imaging.canvas import Canvas, batches, decode_pictures, pad, to_images
from ssdd.imaging.latent_files import StoredLatents
from ssdd.imaging.picture_files import THREADS, ImageFile, find_images, output_names, read_images
from ssdd.progress import bar
from ssdd_decoder import Decoder

REJECTED_FILE = "rejected.csv"
StoreLatent = Callable[[str, Tensor, tuple[int, int]], None]


@dataclass(frozen=True)
class Reconstructed:
    """The outcome for a folder.

    Args:
        written: result files, relative to the output folder.
        rejected: input files without a result.
    """

    written: list[str]
    rejected: list[Rejection]


@torch.no_grad()
def encode_images(
    encoder: AnyEncoder, places: Sequence[Path], store: StoreLatent, batch_size: int = 16, progress: bool = True
) -> list[Rejection]:
    """Encodes images of any size, padded by `canvas.pad`, to the mode of their posterior.

    Args:
        encoder: encoder on its device, in the precision of the computation.
        places: image files and folders.
        store: called with each image's name, latent (C, h, w), and (height, width) before padding. Latents are handed
            over one by one, so that memory does not grow with the number of images.
        batch_size: images of equal padded size at a time.
        progress: shows a bar.

    Returns:
        the files without a latent.

    Raises:
        ValueError: two images have the same name, or there is no candidate file.
    """
    found, rejected = find_images(places)
    _check_any(found, rejected, ", ".join(str(place) for place in places))
    with bar("encoding", len(found), show=progress) as advance:
        for group in batches(_canvases(found, encoder.config.downscale, rejected, advance), batch_size):
            modes = encoder(to_images(group, next(encoder.parameters()).device)).mode().cpu()
            for canvas, z in zip(group, modes, strict=True):
                store(canvas.name, z, canvas.size)
            advance(len(group))
    return rejected


def decode_latents(
    decoder: Decoder,
    latents: StoredLatents,
    out: Path,
    *,
    steps: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> list[str]:
    """Decodes latents to PNG files, and returns their names.

    Args:
        decoder: decoder on its device, in the precision of the computation.
        latents: stored latents, with the sizes of the images.
        out: output folder.
        steps: steps of the sampler.
        seed: seed of the noise, which also depends on the image's name.
        batch_size: images of equal padded size at a time.
        progress: shows a bar.

    Raises:
        ValueError: the latents do not fit the decoder.
        OSError: the disk is full or not writable.
    """
    outputs = dict(zip(latents.shapes, output_names(list(latents.shapes)), strict=True))
    # All shapes are known before any latent is read, so that every batch but the last of a shape is full.
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, shape in latents.shapes.items():
        groups.setdefault(shape, []).append(name)
    weight = decoder.conv_in.weight
    with bar("decoding", len(outputs), show=progress) as advance, ThreadPoolExecutor(THREADS) as pool:
        for names in groups.values():
            for start in range(0, len(names), batch_size):
                some = names[start : start + batch_size]
                z = torch.stack([latents[name] for name in some]).to(weight.device)
                sizes = [(height, width) for height, width in (latents.header.sizes[name] for name in some)]
                pictures = decode_pictures(decoder, z, some, sizes, steps, seed)
                _write(pool, pictures, [out / outputs[name] for name in some])
                advance(len(some))
    return list(outputs.values())


@torch.no_grad()
def reconstruct_folder(
    model: SSDD,
    folder: Path,
    out: Path,
    *,
    steps: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = True,
) -> Reconstructed:
    """Encodes and decodes every image below a folder, keeping its relative name (as PNG) and its size.

    Unreadable files are skipped and listed with the reason in `rejected.csv` of the output folder.

    Args:
        model: model on its device, in the precision of the computation.
        folder: images at any depth.
        out: output folder; inside `folder` it is left out of the search.
        steps: steps of the sampler.
        seed: seed of the noise, which also depends on the image's relative name, and on nothing else.
        batch_size: images of equal padded size at a time.
        progress: shows a bar.

    Raises:
        ValueError: there is no image, or a result would overwrite an input.
        OSError: the disk is full or not writable.
    """
    if out.resolve() == folder.resolve():
        raise ValueError(f"expected an output folder other than the input's, got {out} for both: choose another")
    found, rejected = find_images([folder], leave_out=out)
    _check_any(found, rejected, str(folder))
    outputs = dict(zip((item.name for item in found), output_names([item.name for item in found]), strict=True))
    _check_apart(found, [out / output for output in outputs.values()])
    written: list[str] = []
    with bar("reconstructing", len(found), show=progress) as advance, ThreadPoolExecutor(THREADS) as pool:
        for group in batches(_canvases(found, model.encoder.config.downscale, rejected, advance), batch_size):
            z = model.encode(to_images(group, next(model.encoder.parameters()).device)).mode()
            names, sizes = [canvas.name for canvas in group], [canvas.size for canvas in group]
            pictures = decode_pictures(model.decoder, z, names, sizes, steps, seed)
            _write(pool, pictures, [out / outputs[name] for name in names])
            written += [outputs[name] for name in names]
            advance(len(group))
    rejected.sort(key=lambda bad: bad.path)
    write_rejected(out / REJECTED_FILE, rejected)
    return Reconstructed(sorted(written), rejected)


def write_rejected(path: Path, rejected: Sequence[Rejection]) -> None:
    """Writes a table of path, reason, detail, even an empty one: an earlier list must not remain."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["path", "reason", "detail"])
    table.writerows([bad.path, str(bad.reason), bad.detail] for bad in rejected)
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", errors="backslashreplace"))  # names may not be Unicode


def _canvases(
    found: Sequence[ImageFile], downscale: int, rejected: list[Rejection], advance: Callable[[int], None]
) -> Iterator[Canvas]:
    """Reads and pads images; an unreadable one is added to `rejected` and counts as done."""
    for item, picture in read_images(found):
        if isinstance(picture, BadImage):
            rejected.append(Rejection.of(item.name, picture))
            advance(1)
        else:
            yield pad(item.name, picture, downscale)


def _write(pool: ThreadPoolExecutor, pictures: Sequence[np.ndarray], files: Sequence[Path]) -> None:
    """Compresses in threads, and writes one file after another: an interruption leaves at most one temporary file."""
    for file, data in zip(files, pool.map(_png, pictures), strict=True):
        with atomic_write(file) as temporary:
            temporary.write_bytes(data)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def _check_any(found: Sequence[ImageFile], rejected: Sequence[Rejection], where: str) -> None:
    if not found:
        others = f" among {len(rejected)} other files" if rejected else ""
        raise ValueError(f"expected images in {where}, found none{others}: check the path and the files' suffixes")


def _check_apart(found: Sequence[ImageFile], outputs: Sequence[Path]) -> None:
    """Refuses results that would overwrite an image, by its own path or through a link."""
    inputs = {item.file.parent.resolve() / item.file.name for item in found} | {item.file.resolve() for item in found}
    for output in outputs:
        if output.parent.resolve() / output.name in inputs:
            raise ValueError(
                f"expected results apart from the images, but {output} is one of them: choose another folder"
            )
