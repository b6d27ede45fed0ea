"""`ssdd encode` turns images into latents, `ssdd decode` latents into images."""

import tempfile
from pathlib import Path

import click

from ssdd.commands import options


@click.command(short_help="Images to latents.")
@click.argument("images", nargs=-1, required=True, type=options.EXISTING)
@click.option("-o", "--output", required=True, type=options.NEW_FILE, help="File for the latents (safetensors).")
@options.network_options
@options.tile
@options.attention_window
def encode(
    images: tuple[Path, ...],
    output: Path,
    model: str,
    batch_size: int,
    device: str,
    precision: str,
    tile: int | None,
    attention_window: int | None,
) -> None:
    """Encode IMAGES, files or folders, to one safetensors file.

    The file holds one latent (C, h, w) per image, under the image's name relative to its folder. Its header holds the
    sizes of the images, the encoder's configuration and the hash of the encoder's file. Sides are padded to multiples
    of the down-scale factor; memory does not grow with the number of images. Unreadable files are skipped and listed on
    the screen; the command fails only if no file can be read.

    \b
    ssdd encode photos/ -o latents.safetensors --model distilled.safetensors
    """
    from dataclasses import asdict

    import torch

    from ssdd import __version__
    from ssdd.encoders import load_encoder
    from ssdd.files import sha256_file
    from ssdd.imaging.encode_decode import encode_images
    from ssdd.imaging.large_pictures import Tiling
    from ssdd.imaging.latent_files import LatentHeader, LatentWriter
    from ssdd.processes import choose_device
    from ssdd.texts import utf8

    options.check_output(output, images)
    options.check_utf8(output)
    file = options.encoder_file(model)
    encoder = load_encoder(file).to(choose_device(device), getattr(torch, precision))
    output.parent.mkdir(parents=True, exist_ok=True)
    # Next to the output: /tmp is often small or in memory, and the latents of many images are large.
    with tempfile.TemporaryFile(dir=output.parent) as spool:
        writer = LatentWriter(spool)
        tiling = Tiling(tile=tile, attention_window=attention_window)
        rejected = encode_images(encoder, images, writer.add, batch_size, tiling=tiling)
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
            attention_window=attention_window,
        )
        writer.finish(output, header)
    options.say(f"{output}: {options.count(len(writer.sizes))}, {len(rejected)} skipped")


@click.command(short_help="Latents to images.")
@click.argument("latents", type=options.EXISTING_FILE)
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
    """Decode LATENTS, a file written by `ssdd encode`, to PNG files.

    The results have the names and sizes of the encoded images. The noise of each image depends only on the seed and the
    image's name, so a result depends neither on the batch size nor on the other images in the file.

    \b
    ssdd decode latents.safetensors -o decoded/ --model distilled.safetensors --steps 1
    """
    import torch

    from ssdd.imaging.encode_decode import decode_latents
    from ssdd.imaging.large_pictures import Tiling
    from ssdd.imaging.latent_files import StoredLatents, check_fits
    from ssdd.processes import choose_device
    from ssdd_decoder import Decoder

    options.check_utf8(latents)
    stored = StoredLatents(latents)
    decoder = Decoder.from_pretrained(model)
    check_fits(stored.header, decoder.config)
    decoder.to(choose_device(device), getattr(torch, precision))
    tiling = Tiling(tile=tile)
    done = decode_latents(decoder, stored, output, steps=steps, seed=seed, batch_size=batch_size, tiling=tiling)
    options.report_rejected(done.rejected)
    if not done.written:
        raise click.ClickException(f"none of {len(done.rejected)} pictures could be written below {output}")
    skipped = f", {len(done.rejected)} skipped" if done.rejected else ""
    options.say(f"{output}: {options.count(len(done.written))}{skipped}")
