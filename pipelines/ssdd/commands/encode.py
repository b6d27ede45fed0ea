"""`ssdd encode` turns images into latents, `ssdd decode` latents into images."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssdd.commands import options

if TYPE_CHECKING:
    from ssdd.data.image_index import IndexedImages
    from ssdd.data.source import Source
    from ssdd.imaging.shared_files import Share


@click.command(short_help="Images to latents.")
@click.argument("images", nargs=-1, required=True, type=options.EXISTING)
@click.option(
    "-o", "--output", required=True, type=options.NEW, help="File for the latents (safetensors); folder with --shards."
)
@click.option("--shards", is_flag=True, help="Write a folder of shards, which generators train on.")
@click.option(
    "--im-size", type=click.IntRange(8), default=256, show_default=True, help="Side of images, with --shards."
)
@click.option("--flipped", is_flag=True, help="Also store the latents of the mirrored images, with --shards.")
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    default="float16",
    show_default=True,
    help="Number format of the stored latents, with --shards.",
)
@options.network_options
@options.tile
@options.attention_window
def encode(
    images: tuple[Path, ...],
    output: Path,
    shards: bool,
    im_size: int,
    flipped: bool,
    dtype: str,
    model: str,
    batch_size: int,
    device: str,
    precision: str,
    tile: int | None,
    attention_window: int | None,
) -> None:
    """Encode IMAGES, files or folders, to one safetensors file, or to shards.

    With --shards, each image is resized (bilinear) so that its short side has --im-size pixels, and cropped at its
    centre. The folder holds the posteriors of all images (mean and logvar), the number of each image's class (its first
    folder), and a manifest with statistics. The same command goes on after an interruption.

    Without it, the file holds one latent (C, h, w) per image, under the image's name relative to its folder. Its header
    holds the sizes of the images, the encoder's configuration and the hash of the encoder's file. Sides are padded to
    multiples of the down-scale factor.

    Memory does not grow with the number of images. Unreadable files are skipped and listed on the screen; the command
    fails only if no file can be read. Ranks of torchrun, srun or mpirun share the images; the latents are the same.

    \b
    ssdd encode photos/ -o latents.safetensors --model distilled.safetensors
    ssdd encode photos/ -o latents/ --model distilled.safetensors --shards --im-size 256
    """
    options.check_output(output, images)
    options.check_utf8(output)
    file = options.encoder_file(model)
    if shards:
        form: dict[str, Any] = {"im_size": im_size, "flipped": flipped, "dtype": dtype}
        _encode_shards(images, output, file, device, **form, batch_size=batch_size, precision=precision)
    else:
        windows = {"tile": tile, "attention_window": attention_window}
        _encode_file(images, output, file, batch_size, device, precision, windows)


def _encode_shards(images: tuple[Path, ...], output: Path, file: Path, device: str, **parameters: Any) -> None:
    from ssdd.generation.latent_images import images_of
    from ssdd.generation.latent_manifest import read_manifest
    from ssdd.generation.latent_shards import LatentJob, write_latents
    from ssdd.generation_parameters import LatentsParameters
    from ssdd.imaging.picture_files import NamedImages
    from ssdd.imaging.shared_files import Share
    from ssdd.parameters import RuntimeConfig
    from ssdd.processes import choose_device

    if output.is_file():
        raise ValueError(f"expected a folder for the shards, got the file {output}: choose another name")
    choose_device(device)  # refused before any image is read
    source, chosen = NamedImages(images), LatentsParameters(**parameters)
    share = Share.of_launcher()
    found = _examined(source, share)
    if share.leads:
        options.report_rejected(list(found.rejected.itertuples()))
    runtime = RuntimeConfig.model_validate({"device": device, "workers": 0})
    of_splits = images_of(found.index, source, chosen.im_size)
    write_latents(LatentJob(encoder=file, images=of_splits, parameters=chosen, folder=output, runtime=runtime))
    if not share.leads:
        return
    manifest = read_manifest(output)
    count = options.count(sum(manifest.images.values()))
    number = f"{len(manifest.shards)} shard{'' if len(manifest.shards) == 1 else 's'}"
    options.say(f"{output}: {count} in {number}, {len(found.rejected)} skipped")


def _examined(source: "Source", share: "Share") -> "IndexedImages":
    """Returns the usable images and the others; the ranks share the reading, and all have the result."""
    from ssdd.data.examiners import Examiners
    from ssdd.data.image_index import index_images
    from ssdd.imaging.picture_files import THREADS

    if not share.leads:
        with Examiners(source, THREADS, share.rank, share.ranks) as examiners:
            examiners.serve()
        return share.together([])[0]
    # The user chose these images, so none is held out, and any number of rejected files is only reported.
    found = index_images(source, held_out=0, max_rejected=1, workers=THREADS, ranks=share.ranks)
    return share.together([found])[0]


def _encode_file(
    images: tuple[Path, ...],
    output: Path,
    file: Path,
    batch_size: int,
    device: str,
    precision: str,
    windows: dict[str, int | None],
) -> None:
    from dataclasses import asdict

    from ssdd import __version__
    from ssdd.encoders import load_encoder
    from ssdd.files import sha256_file
    from ssdd.imaging.encode_decode import encode_images
    from ssdd.imaging.large_pictures import Tiling
    from ssdd.imaging.latent_files import LatentWriter
    from ssdd.imaging.latent_header import LatentHeader
    from ssdd.imaging.shared_files import Share
    from ssdd.number_formats import number_format
    from ssdd.processes import choose_device
    from ssdd.texts import utf8

    if output.is_dir():
        raise ValueError(f"expected a file for the latents, got the folder {output}: name a file, or add --shards")
    share = Share.of_launcher()
    place = choose_device(device, share.rank)
    encoder = load_encoder(file).to(place, number_format(precision, place))
    output.parent.mkdir(parents=True, exist_ok=True)
    # Next to the output: /tmp is often small or in memory, and the latents of many images are large.
    with tempfile.TemporaryFile(dir=output.parent) as spool:
        writer = LatentWriter(spool)
        tiling = Tiling(**windows)
        rejected = encode_images(encoder, images, writer.add, batch_size, tiling=tiling, share=share)
        writer.bring_together(output, share)
        if not share.leads:
            return
        options.report_rejected(rejected)
        if not writer.sizes:
            raise click.ClickException(f"none of {len(rejected)} files could be read; {output} was not written")
        header = LatentHeader(
            downscale=encoder.config.downscale,
            latent_channels=encoder.config.latent_channels,
            sizes=writer.sizes,
            model={"file": utf8(file.name), "sha256": sha256_file(file)},
            encoder=asdict(encoder.config),
            precision=precision,
            version=__version__,
            attention_window=tiling.attention_window,
        )
        writer.finish(output, header)
    options.say(f"{output}: {options.count(len(writer.sizes))}, {len(rejected)} skipped")


@click.command(short_help="Latents to images.")
@click.argument("latents", type=options.EXISTING)
@click.option("-o", "--output", required=True, type=options.NEW_FOLDER, help="Folder for the PNG files.")
@options.network_options
@options.steps
@options.seed
@options.tile
def decode(
    latents: Path,
    output: Path,
    model: str,
    batch_size: int,
    device: str,
    precision: str,
    steps: int,
    seed: int,
    tile: int | None,
) -> None:
    """Decode LATENTS, a file or folder written by `ssdd encode` or the pipeline `latents`, or a shard, to PNG files.

    The results have the names and sizes of the encoded images. The noise of each image depends only on the seed and the
    image's name, so a result depends neither on the batch size nor on the other images in the file.

    \b
    ssdd decode latents.safetensors -o decoded/ --model distilled.safetensors --steps 1
    """
    from ssdd.generation.sharded_latents import ShardedLatents
    from ssdd.imaging.encode_decode import decode_latents
    from ssdd.imaging.large_pictures import Tiling
    from ssdd.imaging.latent_files import NamedLatents, StoredLatents, check_fits
    from ssdd.imaging.latent_header import is_sharded
    from ssdd.number_formats import number_format
    from ssdd.processes import choose_device
    from ssdd_decoder import Decoder

    options.check_utf8(latents)
    sharded = latents.is_dir() or is_sharded(latents)
    stored: NamedLatents = ShardedLatents(latents) if sharded else StoredLatents(latents)
    decoder = Decoder.from_pretrained(model)
    check_fits(stored.header, decoder.config)
    place = choose_device(device)
    decoder.to(place, number_format(precision, place))
    tiling = Tiling(tile=tile)
    done = decode_latents(decoder, stored, output, steps=steps, seed=seed, batch_size=batch_size, tiling=tiling)
    options.report_rejected(done.rejected)
    if not done.written:
        raise click.ClickException(f"none of {len(done.rejected)} pictures could be written below {output}")
    skipped = f", {len(done.rejected)} skipped" if done.rejected else ""
    options.say(f"{output}: {options.count(len(done.written))}{skipped}")
