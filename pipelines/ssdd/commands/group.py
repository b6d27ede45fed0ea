"""`ssdd`: its commands, and what becomes of errors and interruptions."""

import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from ssdd import __version__
from ssdd.commands.compare import compare
from ssdd.commands.encode import decode, encode
from ssdd.commands.info import info
from ssdd.commands.lineage import lineage
from ssdd.commands.reconstruct import reconstruct
from ssdd.commands.z_stats import z_stats

INTERRUPTED = 130
_MEMORY_SIGNS = ("out of memory", "not enough memory", "can't allocate memory")


class OneLineErrors(click.Group):
    """A group whose users see one line for an error, unless SSDD_TRACEBACK=1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command; errors of the user or the machine end it with status 1, an interruption with 130."""
        _stop_politely()
        warnings.filterwarnings("ignore", module="PIL")  # of damaged metadata: files are judged by their pixels
        try:
            with _bars_apart():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted: no file is half-written; files finished before are kept.", err=True)
            sys.exit(INTERRUPTED)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            if os.environ.get("SSDD_TRACEBACK") == "1" or isinstance(error, click.exceptions.Exit | click.Abort):
                raise
            message = explain(error)
            if message is None:
                raise
            raise click.ClickException(message) from None


def explain(error: Exception) -> str | None:
    """Returns an error in one line; None where it is no user's business."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return None  # the reader of our output has left; click ends quietly
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}{f': {error.filename}' if error.filename else ''}"
    if isinstance(error, MemoryError | RuntimeError):
        if isinstance(error, RuntimeError) and not any(sign in str(error).lower() for sign in _MEMORY_SIGNS):
            return None
        return "out of memory: give a smaller --batch-size, smaller images, or another --device"
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _bars_apart() -> Iterator[None]:
    """Sends progress bars to the error output: what is piped is the result alone."""
    import rich

    console = rich.get_console()
    before, console.stderr = console.stderr, True
    try:
        yield
    finally:
        console.stderr = before


def _stop_politely() -> None:
    """Makes `kill` end a command as Ctrl-C does: with its temporary files removed."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="ssdd")
def cli() -> None:
    """Encode images, decode latents, and ask files what they are.

    Training and evaluation are pipelines: see `kedro run --help` in the project's folder.

    SSDD_TRACEBACK=1 shows where an error came from.
    """


for _command in (encode, decode, reconstruct, info, lineage, compare, z_stats):
    cli.add_command(_command)
