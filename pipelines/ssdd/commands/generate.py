"""`ssdd generate`: images of a trained generator, or a folder that diffusers loads."""

from pathlib import Path
from typing import Any

import click

from ssdd.commands import options

DECODERS = ("student", "teacher", "kl")


@click.command(short_help="Images of a trained generator.")
@click.argument("run", metavar="RUN")
@click.option("-o", "--output", type=options.NEW_FOLDER, help="Folder for the PNG files and samples.csv.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Number of images.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62),
    default=0,
    show_default=True,
    help="Seed of the first image; each further image has the next one.",
)
@click.option("--class", "classes", type=click.IntRange(0), multiple=True, help="Class, repeatable: these in turn.")
@click.option("--guidance", type=click.FloatRange(0, 100), default=1.0, show_default=True, help="1: none.")
@click.option("--steps", type=click.IntRange(1, 10_000), default=50, show_default=True, help="Of the sampler.")
@click.option("--method", type=click.Choice(["euler", "heun"]), default="euler", show_default=True, help="Sampler.")
@click.option(
    "--shift",
    type=click.FloatRange(0, 100, min_open=True),
    default=1.0,
    show_default=True,
    help="Above 1: times of the sampler nearer to noise.",
)
@click.option(
    "--decoder",
    default="student",
    show_default=True,
    metavar="student|teacher|kl|MODEL",
    help="Decoder of the run, or any model on the same encoder.",
)
@click.option("--decoder-steps", type=click.IntRange(1, 10_000), help="Default: 8 for the teacher, else 1.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images at a time.")
@options.device
@click.option("--save-pipeline", type=options.NEW_FOLDER, help="Folder for a pipeline of diffusers.")
def generate(
    run: str,
    output: Path | None,
    count: int,
    seed: int,
    classes: tuple[int, ...],
    guidance: float,
    steps: int,
    method: str,
    shift: float,
    decoder: str,
    decoder_steps: int | None,
    batch_size: int,
    device: str,
    save_pipeline: Path | None,
) -> None:
    """Draw images with a generator: that of RUN or RUN@best, runs of the project in the current folder, or a file.

    Each image follows from its seed and class alone: files are named by the seed, and samples.csv lists both.

    With --save-pipeline, the generator and an SSDD decoder become a folder that DiffusionPipeline.from_pretrained of
    diffusers loads; the same seeds give the same images there.

    \b
    ssdd generate quickstart -o samples/ --count 64 --steps 20
    """
    if output is None and save_pipeline is None:
        raise click.UsageError("give --output, --save-pipeline, or both")
    found = _Found(run, decoder, decoder_steps)
    if save_pipeline is not None:
        found.save_pipeline(save_pipeline, shift)
    if output is not None:
        from ssdd.generation_parameters import SamplingParameters

        sampling = SamplingParameters(method=method, steps=steps, guidance=guidance, shift=shift)  # type: ignore[arg-type]
        found.draw(output, range(seed, seed + count), classes, sampling, batch_size, device)


class _Found:
    """The generator and the decoder of a command."""

    def __init__(self, run: str, decoder: str, steps: int | None) -> None:
        from ssdd.model_files import find_decoder, find_generator

        self.generator_file = find_generator(run)
        self.decoder_file = find_decoder(run, decoder) if decoder in DECODERS else options.found_model(decoder)
        self.kind, self.steps = decoder, steps or (8 if decoder == "teacher" else 1)

    def generator(self) -> Any:
        from ssdd.generation.generator import Generator

        try:
            return Generator.from_pretrained(self.generator_file)
        except ImportError as error:
            raise click.ClickException(str(error)) from None

    def save_pipeline(self, folder: Path, shift: float) -> None:
        from ssdd.generation.saved_pipeline import save_pipeline

        if self.kind == "kl":
            raise click.UsageError("--save-pipeline takes an SSDD decoder, not kl: `ssdd export --to kl` exports that")
        save_pipeline(self.generator(), self.decoder_file, folder, self.steps, shift)
        options.say(f"{folder}: DiffusionPipeline.from_pretrained loads it, after `import ssdd`")

    def draw(
        self, folder: Path, seeds: range, classes: tuple[int, ...], sampling: Any, batch_size: int, device: str
    ) -> None:
        from ssdd.generation.drawing import check_decoder, class_labels, decoded_by, is_of_its_encoder, open_decoder
        from ssdd.generation.sample_files import write_pictures
        from ssdd.processes import choose_device

        place = choose_device(device)
        network = self.generator().to(place)
        model = open_decoder(self.decoder_file, "kl" if self.kind == "kl" else "ssdd", place)
        check_decoder(network.config, model.decoder.config, self.decoder_file)
        if not is_of_its_encoder(self.generator_file, model):
            options.say(
                f"{self.decoder_file} is not of the very encoder whose latents the generator draws: unless it is a "
                "rounded copy, the images are wrong",
                err=True,
            )
        labels = class_labels(network.config, len(seeds), classes)
        write_pictures(folder, network, decoded_by(model, self.steps), seeds, labels, sampling, batch_size)
        options.say(f"{folder}: {options.count(len(seeds))}")
