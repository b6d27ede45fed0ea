"""`ssdd encode`: images to latents; `ssdd decode`: latents to images."""

from pathlib import Path

import click

from ssdd.commands import options


@click.command(short_help="Images to latents.")
@click.argument("images", nargs=-1, required=True, type=options.EXISTING)
@click.option("-o", "--output", required=True, type=options.NEW_FILE, help="Latents, as safetensors.")
@options.network_options
def encode(images: tuple[Path, ...], output: Path, model: str, batch_size: int, device: str, precision: str) -> None:
    """Encode IMAGES, files or folders, to one safetensors file.

    It holds a latent (C, h, w) per image, called by the image's name relative to its folder, and in its header the
    sizes of the images, the encoder's configuration and its file's hash. Sides are padded to multiples of the
    down-scale factor. Files that cannot be read are skipped and named; the command fails only if all are.

    \b
    ssdd encode photos/ -o latents.safetensors --model distilled.safetensors
    """
    import torch

    from ssdd import __version__
    from ssdd.files import sha256_file
    from ssdd.folders import encode_images
    from ssdd.latent_files import LatentHeader, write_latents
    from ssdd_encoder import Encoder

    _check_output(output, images)
    file = options.encoder_file(model)
    encoder = Encoder.from_pretrained(file).to(options.chosen_device(device), getattr(torch, precision))
    done = encode_images(encoder, images, batch_size)
    options.report_rejected(done.rejected)
    if not done.latents:
        raise click.ClickException(f"none of {len(done.rejected)} files could be read; {output} was not written")
    header = LatentHeader(
        downscale=encoder.config.downscale,
        latent_channels=encoder.config.latent_channels,
        sizes={name: list(size) for name, size in done.sizes.items()},
        model={"file": file.name, "sha256": sha256_file(file)},
        encoder=_plain(encoder.config),
        precision=precision,
        version=__version__,
    )
    write_latents(output, done.latents, header)
    click.echo(f"{output}: {_count(len(done.latents))}, {len(done.rejected)} skipped")


@click.command(short_help="Latents to images.")
@click.argument("latents", type=options.EXISTING_FILE)
@click.option("-o", "--output", required=True, type=options.NEW_FOLDER, help="Folder for the PNG files.")
@options.network_options
@options.steps
@options.seed
def decode(
    latents: Path, output: Path, model: str, batch_size: int, device: str, precision: str, steps: int, seed: int
) -> None:
    """Decode LATENTS, a file of `ssdd encode`, to PNG files.

    Names and sizes are those of the images that were encoded. The noise of each image depends on the seed and its name
    alone, so the result does not change with the batch size or with what else is in the file.

    \b
    ssdd decode latents.safetensors -o decoded/ --model distilled.safetensors --steps 1
    """
    import torch

    from ssdd.folders import decode_latents
    from ssdd.latent_files import check_fits, read_latents
    from ssdd_decoder import Decoder

    tensors, header = read_latents(latents)
    decoder = Decoder.from_pretrained(model)
    check_fits(header, decoder.config)
    decoder.to(options.chosen_device(device), getattr(torch, precision))
    sizes = {name: (height, width) for name, (height, width) in header.sizes.items()}
    written = decode_latents(decoder, tensors, sizes, output, steps=steps, seed=seed, batch_size=batch_size)
    click.echo(f"{output}: {_count(len(written))}")


def _check_output(output: Path, images: tuple[Path, ...]) -> None:
    if output.resolve() in {image.resolve() for image in images}:
        raise ValueError(f"expected an output file apart from the images, got {output}: choose another name")


def _count(images: int) -> str:
    return f"{images} image{'' if images == 1 else 's'}"


def _plain(config: object) -> dict[str, object]:
    from dataclasses import asdict

    return asdict(config)  # type: ignore[call-overload]
