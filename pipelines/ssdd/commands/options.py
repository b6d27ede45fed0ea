"""Options and messages that several commands share."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ssdd.texts import is_unicode, shown

if TYPE_CHECKING:
    from ssdd.data.source import Rejection

SHOWN = 20  # rejected files on the screen; a folder of documents would scroll everything else away


class UserPath(click.Path):
    """A path in which `~` is the user's folder; a shell leaves it as it is behind `--output=` and in quotes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Returns the path, checked."""
        return super().convert(value if os.path.lexists(value) else os.path.expanduser(value), param, ctx)


EXISTING = UserPath(exists=True, path_type=Path)
EXISTING_FILE = UserPath(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = UserPath(exists=True, file_okay=False, path_type=Path)
NEW_FILE = UserPath(dir_okay=False, path_type=Path)
NEW = UserPath(path_type=Path)
NEW_FOLDER = UserPath(file_okay=False, path_type=Path)


def found_model(source: str) -> str:
    """Finds the file of a model, and says so where it is not the source itself; see `find_model`."""
    from ssdd.model_files import find_model

    check_utf8(Path(source))
    file = find_model(source)
    if file != source:
        say(f"{source} is {file}", err=True)
    return file


def _found_model(context: click.Context, parameter: click.Parameter, source: str) -> str:
    return found_model(source)


model = click.option(
    "--model",
    required=True,
    metavar="MODEL",
    callback=_found_model,
    help="Checkpoint: a safetensors file, its folder, or a hub id owner/name; RUN or RUN@best, a run of the project "
    "in the current folder (the model of its last finished stage); or demo, the model that comes along.",
)
held = click.argument("file", metavar="FILE", callback=_found_model)
batch_size = click.option(
    "--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images of equal size per batch."
)
steps = click.option(
    "--steps",
    type=click.IntRange(1, 10_000),  # as ssdd_decoder.times.MAX_STEPS, whose import would load torch
    default=1,
    show_default=True,
    help="Steps of the sampler: 1 for a distilled model, about 8 for other models.",
)
seed = click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Seed of the noise; the noise of each image also depends on the image's name.",
)
tile = click.option(
    "--tile",
    type=click.IntRange(0, 2**15),  # as ssdd_decoder.strips.LARGEST_TILE
    metavar="PIXELS",
    help="Compute images in strips of PIXELS x PIXELS pixels, with the same result in less memory; 0 for none. "
    "[default: 512 for images of more than 1024 x 1024, else none]",
)
attention_window = click.option(
    "--attention-window",
    type=click.IntRange(1),
    metavar="CELLS",
    help="Side of the windows that confine the encoder's attention, in latent cells. [default: the encoder's own; "
    "if it has none, all of an image of up to 128 x 128 cells, and 32 for larger ones]",
)
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device of the computation; auto uses a GPU if there is one.",
)
precision = click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Number format of the network.",
)


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --model, --batch-size, --device and --precision."""
    for option in (precision, device, batch_size, model):
        command = option(command)
    return command


def encoder_file(source: str) -> Path:
    """Finds the encoder's file of `--model`; `sdvae` stands for SD-VAE's on the hub.

    Raises:
        ValueError: there is no such file.
    """
    from ssdd_encoder import sdvae, sources

    return sources.resolve(sdvae.checkpoint_of(source), "encoder.safetensors")


def check_utf8(path: Path) -> None:
    """Refuses a path of a safetensors file that is not UTF-8; the library that reads and writes them takes no other.

    Raises:
        ValueError: its bytes are not UTF-8.
    """
    if not is_unicode(str(path)):
        raise ValueError(f"expected the path of a safetensors file in UTF-8, got {path}: rename it, or its folder")


def check_output(output: Path, images: tuple[Path, ...]) -> None:
    """Refuses an output that would overwrite an input image.

    Raises:
        ValueError: the output is one of the images.
    """
    if output.resolve() in {image.resolve() for image in images}:
        raise ValueError(f"expected an output file apart from the images, got {output}: choose another name")


def report_rejected(rejected: "Sequence[Rejection]", rest: str = "") -> None:
    """Prints skipped files on the error stream, one line each, at most `SHOWN`.

    Args:
        rejected: the files, with reasons.
        rest: text on the place of the complete list.
    """
    for bad in rejected[:SHOWN]:
        say(f"skipped {bad.path}: {bad.reason} ({bad.detail})", err=True)
    if len(rejected) > SHOWN:
        say(f"and {len(rejected) - SHOWN} more{rest}", err=True)


def say(text: str, err: bool = False) -> None:
    """Prints one line on the output or the error stream, in characters that the stream can hold."""
    # click would write UTF-8 to a stream whose encoding is ASCII.
    click.echo(shown(printable(text), sys.stderr if err else sys.stdout), err=err)


def count(images: int) -> str:
    """Returns a number of images with its noun."""
    return f"{images} image{'' if images == 1 else 's'}"


def printable(text: str) -> str:
    """Escapes characters that would act on the terminal, since a file name may contain any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
