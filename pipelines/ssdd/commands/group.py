"""The `ssdd` command: its subcommands, and the handling of errors and interruptions for all of them."""

import errno
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ssdd import __version__
from ssdd.commands.card import card
from ssdd.commands.compare import compare
from ssdd.commands.convert_latents import convert_latents
from ssdd.commands.doctor import doctor
from ssdd.commands.encode import decode, encode
from ssdd.commands.export import export
from ssdd.commands.generate import generate
from ssdd.commands.info import info
from ssdd.commands.lineage import lineage
from ssdd.commands.project import project
from ssdd.commands.reconstruct import reconstruct
from ssdd.commands.z_stats import z_stats
from ssdd.deadlines import INTERRUPTED, Deadline, ends_on_sigterm, remove_all_unfinished
from ssdd.errors import explain, is_out_of_memory
from ssdd.texts import print_any_text, shown


class OneLineErrors(click.Group):
    """A group whose users see one line for an error, unless SSDD_TRACEBACK=1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; errors of the user or the machine end it with status 1, an interruption with 130."""
        print_any_text()
        # Pillow warns about damaged metadata, which no command reads: the pixels alone decide about a file.
        warnings.filterwarnings("ignore", module="PIL")
        try:
            with ends_on_sigterm(), Deadline(), _bars_on_stderr(), Deadline.removing(remove_all_unfinished):
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted: no file is half-written; files finished before are kept.", err=True)
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            error.message = shown(error.message, sys.stderr)  # type: ignore[misc]  # its class keeps the usage's help
            raise
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if os.environ.get("SSDD_TRACEBACK") == "1" or not _is_for_the_user(error):
                raise
            raise click.ClickException(shown(" ".join(explain(error).split()), sys.stderr)) from None


def _is_for_the_user(error: Exception) -> bool:
    """Whether the user can correct the error; other errors keep their traceback."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return False  # the reader of a pipe has left, as `| head` does: click ends quietly
    if isinstance(error, RuntimeError):
        # click's own Exit and Abort are RuntimeErrors too, and must reach click.
        return is_out_of_memory(error)
    return True


@contextmanager
def _bars_on_stderr() -> Iterator[None]:
    """Sends progress bars to the error output, so that a pipe receives the result alone."""
    import rich

    console = rich.get_console()
    before, console.stderr = console.stderr, True
    try:
        yield
    finally:
        console.stderr = before


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ssdd")
def cli() -> None:
    """Encode images, decode latents, and look into files.

    Training and evaluation are pipelines: see `kedro run --help` in the project's folder.

    SSDD_TRACEBACK=1 shows where an error came from.
    """


for _command in (
    encode,
    decode,
    convert_latents,
    reconstruct,
    info,
    lineage,
    card,
    export,
    generate,
    compare,
    z_stats,
    doctor,
    project,
):
    cli.add_command(_command)
