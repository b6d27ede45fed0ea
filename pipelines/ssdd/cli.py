"""`kedro run` for this project: Kedro's own command, with `--plan`, `--force` and errors in one line."""

import errno
import os
from typing import Any

import click
from kedro.framework.cli import project as kedro_cli
from kedro.framework.cli.utils import KedroCliError
from kedro.framework.project import pipelines
from kedro.io.core import DatasetError

from ssdd.suggestions import nearest

RUNNER = "ssdd.lineage.runner.LineageRunner"


@click.group(name="ssdd")
def cli() -> None:
    """Commands of this project."""


def run_stale(plan: bool, force: bool, full_traceback: bool, **options: Any) -> None:
    """Run what is stale of a pipeline.

    A node is skipped when its outputs are there, unmodified, and made of what it is made of now.
    """
    if options["pipeline"]:
        if options["pipelines"]:
            raise click.UsageError("give --pipeline or --pipelines, not both")
        options["pipelines"], options["pipeline"] = [options["pipeline"]], None
    if not options["runner"] or options["runner"] == "SequentialRunner":
        options["runner"] = RUNNER
        options["runner_params"] = {**options["runner_params"], "plan": plan, "force": force}
    if full_traceback or os.environ.get("SSDD_TRACEBACK") == "1":
        _kedro_run(options)
        return
    try:
        _kedro_run(options)
    except (ValueError, OSError, DatasetError, FloatingPointError) as error:  # the last: a loss that is not finite
        raise click.ClickException(explain(error)) from None
    except KeyboardInterrupt:
        click.echo("Interrupted. What was finished is kept; the same command goes on from there.", err=True)
        raise SystemExit(130) from None
    except SystemExit as stop:
        if not str(stop).isdigit():  # a stage that saved its state and says so
            click.echo(str(stop), err=True)
        raise


def explain(error: Exception) -> str:
    """Returns what a user needs of their error: what the system said of which file, or the message."""
    cause: BaseException | None = error
    while isinstance(cause, DatasetError):
        cause = cause.__cause__
    if os.strerror(errno.ENOSPC) in str(cause):
        return f"{cause}: make room, and the same command goes on from what is finished"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror}{f': {cause.filename}' if cause.filename else ''}"
    if isinstance(cause, ChildProcessError):  # a worker's own traceback
        return str(cause)
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return "\n".join(lines)


def join_params(arguments: list[str]) -> list[str]:
    """Returns the arguments with every `--params` joined into one; Kedro would read the last one alone."""
    others: list[str] = []
    params: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        value = next(rest, None) if argument == "--params" else None
        if value is not None:
            params.append(value)
        elif argument.startswith("--params="):
            params.append(argument.partition("=")[2])
        else:
            others.append(argument)
    return [*others, f"--params={','.join(item for item in params if item)}"] if params else others


class RunCommand(click.Command):
    """`kedro run`, with `--params` given as often as one likes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the command line."""
        return super().parse_args(ctx, join_params(args))


def _kedro_run(options: dict[str, Any]) -> None:
    _check_names(options)
    callback = kedro_cli.run.callback
    if callback is None:
        raise KedroCliError("kedro run has no callback in this version of Kedro")
    callback(**options)


def _check_names(options: dict[str, Any]) -> None:
    """Refuses pipelines, nodes, tags, datasets and namespaces that there are none of."""
    for name in options["pipelines"]:
        if name not in pipelines:
            raise ValueError(f"unknown pipeline {name!r}{nearest(name, sorted(pipelines))}")
    chosen = [pipelines[name] for name in options["pipelines"] or ["__default__"]]
    nodes = [node for pipeline in chosen for node in pipeline.nodes]
    node_names = {node.name for node in nodes}
    datasets = {name for pipeline in chosen for name in pipeline.datasets()}
    known = {
        "node_names": ("node", node_names),
        "from_nodes": ("node", node_names),
        "to_nodes": ("node", node_names),
        "tags": ("tag", {tag for node in nodes for tag in node.tags}),
        "from_inputs": ("dataset", datasets),
        "to_outputs": ("dataset", datasets),
        "namespaces": ("namespace", {prefix for node in nodes for prefix in node.namespace_prefixes}),
    }
    for option, (kind, names) in known.items():
        for name in options[option] or ():
            if name not in names:
                raise ValueError(f"unknown {kind} {name!r}{nearest(name, sorted(names))}")


run = RunCommand(  # the name by which Kedro finds it
    "run",
    callback=run_stale,
    help=run_stale.__doc__,
    params=[
        click.Option(["--plan"], is_flag=True, help="Only print what would run, and why."),
        click.Option(["--force"], is_flag=True, help="Run every chosen node anew, whatever holds."),
        click.Option(["--traceback", "full_traceback"], is_flag=True, help="Show where an error came from."),
        *kedro_cli.run.params,
    ],
)
cli.add_command(run)
