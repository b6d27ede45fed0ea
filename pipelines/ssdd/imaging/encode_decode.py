"""Encoding and decoding of whole folders: images to latents, latents to images, images to reconstructions."""

# B batch, C latent channels, h w latent cells

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ssdd.autoencoder import SSDD
from ssdd.data.decoding import NOTE, BadImage
from ssdd.data.source import Rejection, tell_notes
from ssdd.encoders import AnyEncoder
from ssdd.files import atomic_write
from ssdd.imaging.canvas import Canvas, batches, decode_pictures, pad, to_images
from ssdd.imaging.large_pictures import CONFINED, Tiling, parts
from ssdd.imaging.latent_files import NamedLatents
from ssdd.imaging.picture_files import ImageFile, find_images, output_names, read_images
from ssdd.imaging.picture_writer import PictureWriter
from ssdd.imaging.shared_files import ALONE, Share
from ssdd.progress import Show, bar
from ssdd_decoder import Decoder

REJECTED_FILE = "rejected.csv"
DEFAULT_TILING = Tiling()
ENCODING = 0.15  # of the time of a reconstruction, about: the rest is decoding
StoreLatent = Callable[[str, Tensor, tuple[int, int]], None]


@dataclass(frozen=True)
class WrittenPictures:
    """The pictures of a folder or of a file of latents.

    Args:
        written: result files, relative to the output folder, in the order of their names.
        rejected: names without a result.
    """

    written: list[str]
    rejected: list[Rejection]


@torch.no_grad()
def encode_images(
    encoder: AnyEncoder,
    places: Sequence[Path],
    store: StoreLatent,
    batch_size: int = 16,
    progress: Show = True,
    tiling: Tiling = DEFAULT_TILING,
    share: Share = ALONE,
) -> list[Rejection]:
    """Encodes images of any size, padded by `canvas.pad`, to the mode of their posterior.

    Args:
        encoder: encoder on its device, in the precision of the computation.
        places: image files and folders.
        store: called with each image's name, latent (C, h, w), and (height, width) before padding. Latents are handed
            over one by one, so that memory does not grow with the number of images. A BadImage that it raises counts
            the image as rejected.
        batch_size: images of equal padded size at a time.
        progress: the display of the progress.
        tiling: of large images.
        share: of this process, if several work together; each stores the latents of its own images.

    Returns:
        the files without a latent, of all processes.

    Raises:
        ValueError: two images have the same name, or there is no candidate file.
    """
    found, rejected = find_images(places)
    _check_any(found, rejected, ", ".join(str(place) for place in places))
    refused: list[Rejection] = []
    with bar("encoding", len(found), show=progress if share.leads else False) as advance:
        canvases = _canvases(found, encoder, rejected, advance, tiling, share)
        for group in share.of(batches(canvases, batch_size), advance):
            tell = parts(advance, len(group))
            modes = tiling.encode(encoder, to_images(group, next(encoder.parameters()).device), tell).cpu()
            for canvas, z in zip(group, modes, strict=True):
                try:
                    store(canvas.name, z, canvas.size)
                except BadImage as bad:
                    refused.append(Rejection.of(canvas.name, bad))
            tell(1)
    return rejected + share.together(refused)


def decode_latents(
    decoder: Decoder,
    latents: NamedLatents,
    out: Path,
    *,
    steps: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: Show = True,
    tiling: Tiling = DEFAULT_TILING,
) -> WrittenPictures:
    """Decodes latents to PNG files; a name that the file system refuses is skipped.

    Args:
        decoder: decoder on its device, in the precision of the computation.
        latents: stored latents, with the sizes of the images.
        out: output folder.
        steps: steps of the sampler.
        seed: seed of the noise, which also depends on the image's name.
        batch_size: images of equal padded size at a time.
        progress: the display of the progress.
        tiling: of large pictures.

    Raises:
        ValueError: the latents do not fit the decoder.
        OSError: the disk is full or not writable.
    """
    outputs = dict(zip(latents.shapes, output_names(list(latents.shapes)), strict=True))
    # All shapes are known before any latent is read, so that every batch but the last of a shape is full.
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, shape in latents.shapes.items():
        groups.setdefault(shape, []).append(name)
    weight, scale, s = decoder.conv_in.weight, decoder.config.downscale, decoder.config.upscale
    with bar("decoding", len(outputs), show=progress) as advance, PictureWriter(out, outputs) as writer:
        for names in groups.values():
            for start in range(0, len(names), batch_size):
                some = names[start : start + batch_size]
                z = torch.stack([latents[name] for name in some]).to(weight.device)
                sizes = [(height * s, width * s) for height, width in (latents.header.sizes[name] for name in some)]
                tell, tile = parts(advance, len(some)), tiling.side(*(side * scale for side in z.shape[2:]))
                pictures = decode_pictures(decoder, z, some, sizes, steps, seed, tile, tell)
                writer.write(some, pictures)
                tell(1)
    return WrittenPictures(sorted(writer.written), writer.rejected)


@torch.no_grad()
def reconstruct_folder(
    model: SSDD,
    folder: Path,
    out: Path,
    *,
    steps: int = 1,
    seed: int = 0,
    batch_size: int = 16,
    progress: Show = True,
    tiling: Tiling = DEFAULT_TILING,
    share: Share = ALONE,
) -> WrittenPictures:
    """Encodes and decodes every image below a folder, keeping its relative name (as PNG) and its size.

    Unreadable files are skipped and listed with the reason in `rejected.csv` of the output folder.

    Args:
        model: model on its device, in the precision of the computation.
        folder: images at any depth.
        out: output folder; inside `folder` it is left out of the search.
        steps: steps of the sampler.
        seed: seed of the noise, which also depends on the image's relative name, and on nothing else.
        batch_size: images of equal padded size at a time.
        progress: the display of the progress.
        tiling: of large pictures.
        share: of this process, if several work together; the result tells of the images of all.

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
    with (
        bar("reconstructing", len(found), show=progress if share.leads else False) as advance,
        PictureWriter(out, outputs, REJECTED_FILE) as writer,
    ):
        canvases = _canvases(found, model.encoder, rejected, advance, tiling, share)
        for group in share.of(batches(canvases, batch_size), advance):
            encoded, decoded = (parts(advance, len(group) * share) for share in (ENCODING, 1 - ENCODING))
            x = to_images(group, next(model.encoder.parameters()).device)
            z = tiling.encode(model.encoder, x, encoded)
            encoded(1)
            names = [canvas.name for canvas in group]
            sizes = [(height * model.upscale, width * model.upscale) for height, width in (c.size for c in group)]
            tile = tiling.side(*(side * model.upscale for side in x.shape[2:]))
            pictures = decode_pictures(model.decoder, z, names, sizes, steps, seed, tile, decoded)
            writer.write(names, pictures)
            decoded(1)
    rejected = sorted(rejected + share.together(writer.rejected), key=lambda bad: bad.path)
    if share.leads:
        write_rejected(out / REJECTED_FILE, rejected)
    return WrittenPictures(sorted(share.together(writer.written)), rejected)


def write_rejected(path: Path, rejected: Sequence[Rejection]) -> None:
    """Writes a table of path, reason, detail, even an empty one: an earlier list must not remain."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(["path", "reason", "detail"])
    table.writerows([bad.path, str(bad.reason), bad.detail] for bad in rejected)
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.getvalue().encode("utf-8", errors="backslashreplace"))  # names may not be Unicode


def _canvases(
    found: Sequence[ImageFile],
    encoder: AnyEncoder,
    rejected: list[Rejection],
    advance: Callable[[float], None],
    tiling: Tiling,
    share: Share,
) -> Iterator[Canvas]:
    """Reads and pads images; an unreadable one is added to `rejected` and counts as done."""
    notes = []
    downscale = encoder.config.downscale
    for item, picture in read_images(found):
        if isinstance(picture, BadImage):
            rejected.append(Rejection.of(item.name, picture))
            advance(1)
        else:
            notes += [(item.name, picture.info[NOTE])] if picture.info.get(NOTE) else []
            canvas = pad(item.name, picture, downscale)
            cells = (canvas.pixels.shape[0] // downscale, canvas.pixels.shape[1] // downscale)
            if tiling.attention_window is None and encoder.confines(*cells):
                notes.append((item.name, CONFINED))
            yield canvas
    if share.leads:
        tell_notes(notes)


def _check_any(found: Sequence[ImageFile], rejected: Sequence[Rejection], where: str) -> None:
    if not found:
        first = f"; the first, {rejected[0].path!r}: {rejected[0].reason}, {rejected[0].detail}" if rejected else ""
        others = f" among {len(rejected)} other file{'s' if len(rejected) > 1 else ''}{first}" if rejected else ""
        raise ValueError(f"expected images in {where}, found none{others}: check the path and the files' suffixes")


def _check_apart(found: Sequence[ImageFile], outputs: Sequence[Path]) -> None:
    """Refuses results that would overwrite an image, by its own path or through a link."""
    inputs = {item.file.parent.resolve() / item.file.name for item in found} | {item.file.resolve() for item in found}
    for output in outputs:
        if output.parent.resolve() / output.name in inputs:
            raise ValueError(
                f"expected results apart from the images, but {output} is one of them: choose another folder"
            )
