"""`kedro run` for this project: Kedro's own command, with `--plan`, `--force` and errors in one line."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli import project as kedro_cli
from kedro.framework.cli.utils import KedroCliError
from kedro.framework.project import pipelines, settings
from kedro.io.core import DatasetError
from kedro.validation.type_extractor import TypeExtractor

from ssdd.deadlines import Deadline, ends_on_sigterm, remove_all_unfinished
from ssdd.errors import explain
from ssdd.lineage.parameter_texts import read_params
from ssdd.lineage.project_folder import from_shell, project_folder
from ssdd.lineage.project_rules import ProjectRules
from ssdd.suggestions import nearest
from ssdd.texts import print_any_text, shown

RUNNER = "ssdd.lineage.runner.LineageRunner"


@click.group(name="ssdd")
def cli() -> None:
    """Commands of this project."""


def run_stale(plan: bool, force: bool, full_traceback: bool, **options: Any) -> None:
    """Run the stale nodes of a pipeline.

    A node is skipped when its outputs exist, are unmodified, and were made from the code, parameters and inputs that
    the node has now.
    """
    print_any_text()
    if options["pipeline"]:
        # Kedro calls --pipeline deprecated; it stays here as a silent short form.
        if options["pipelines"]:
            raise click.UsageError("give --pipeline or --pipelines, not both")
        options["pipelines"], options["pipeline"] = [options["pipeline"]], None
    # Kedro constructs the runner from a name and `runner_params`, so the two flags travel through those.
    if not options["runner"] or options["runner"] == "SequentialRunner":
        options["runner"] = RUNNER
        options["runner_params"] = {**options["runner_params"], "plan": plan, "force": force}
    removal = Deadline.removing(remove_all_unfinished)
    with contextlib.chdir(project_folder() or Path.cwd()), ends_on_sigterm(), Deadline(), removal:
        if full_traceback or os.environ.get("SSDD_TRACEBACK") == "1":
            _kedro_run(options)
        else:
            _run_quietly(options)


def _run_quietly(options: dict[str, Any]) -> None:
    """Runs, and turns errors that the user can correct into one line."""
    try:
        _kedro_run(options)
    except (ValueError, OSError, DatasetError, FloatingPointError) as error:  # the last: a loss that is not finite
        advice = "make room, and the same command goes on from what is finished"
        raise click.ClickException(shown(explain(error, when_disk_full=advice), sys.stderr)) from None
    except KeyboardInterrupt:
        click.echo("Interrupted. Finished results are kept; the same command goes on from there.", err=True)
        raise SystemExit(130) from None
    except SystemExit as stop:
        if not str(stop).isdigit():  # the message of a stage that saved its state
            click.echo(str(stop), err=True)
        raise


def split_params(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns the other arguments, and the values of all `--params`; Kedro would drop all but the last."""
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
    return others, params


class RunCommand(click.Command):
    """`kedro run` that takes any number of `--params`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the command line."""
        others, params = split_params(args)
        rest = super().parse_args(ctx, others)
        if params:
            rules = next((hook for hook in settings.HOOKS if isinstance(hook, ProjectRules)), ProjectRules())
            kinds = TypeExtractor(dict(pipelines)).extract_types_from_pipelines()
            project = project_folder() or Path.cwd()

            def place(name: str, text: str) -> str:
                if name in rules.replaceable:
                    return from_shell(text, project, may_be_run=True)
                return from_shell(text, project) if name in rules.paths else text

            try:
                ctx.params["params"] = read_params(params, kinds, ("run_name", *rules.replaceable), place)
            except ValueError as error:
                raise click.UsageError(str(error), ctx) from None
        return rest


def _kedro_run(options: dict[str, Any]) -> None:
    _check_names(options)
    callback = kedro_cli.run.callback  # Kedro's own implementation, called without its command line
    if callback is None:
        raise KedroCliError("kedro run has no callback in this version of Kedro")
    callback(**options)


def _check_names(options: dict[str, Any]) -> None:
    """Refuses unknown pipelines, nodes, tags, datasets and namespaces, and names the nearest known one."""
    # Kedro reports most of them too, but only after the catalog is made, and without the nearest name.
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


run = RunCommand(  # Kedro finds it by this name
    "run",
    callback=run_stale,
    help=run_stale.__doc__,
    params=[
        click.Option(["--plan"], is_flag=True, help="Only print which nodes would run, and why."),
        click.Option(["--force"], is_flag=True, help="Run every chosen node from the start, even if it is up to date."),
        click.Option(["--traceback", "full_traceback"], is_flag=True, help="Show the traceback of an error."),
        *kedro_cli.run.params,
    ],
)
cli.add_command(run)
