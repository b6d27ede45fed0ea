"""`ssdd project`: a folder in which `kedro` runs the installed pipelines, without a clone."""

import shutil
from pathlib import Path

import click

from ssdd.commands import options

HERE = Path(__file__).parents[1]
SETTINGS = """\
# A project of the installed package ssdd: `kedro run --pipeline=distill` trains the quickstart.
[tool.kedro]
package_name = "ssdd"
project_name = "ssdd"
kedro_init_version = "{kedro}"
source_dir = "."
"""


@click.command(short_help="Make a folder in which kedro runs the pipelines.")
@click.argument("folder", type=options.NEW_FOLDER)
def project(folder: Path) -> None:
    """Make FOLDER, with the configuration of the pipelines, for `kedro run` and `kedro viz run` in it.

    The parameters are in FOLDER/conf/base/parameters.yml. Results go below FOLDER/data.

    \b
    ssdd project mine
    """
    from kedro import __version__ as kedro

    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"expected a new or empty folder, got {folder}: choose another name")
    # Part by part, and the file that makes a project of it at last: what an interruption leaves is none.
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(_configuration(), folder / "conf", dirs_exist_ok=True)
    (folder / ".telemetry").write_text("consent: false\n", encoding="utf-8")
    (folder / ".gitignore").write_text("/data/\n/.viz/\n", encoding="utf-8")
    (folder / "pyproject.toml").write_text(SETTINGS.format(kedro=kedro), encoding="utf-8")
    options.say(f"{folder} is a project: change to it, then kedro run --pipeline=distill")


def _configuration() -> Path:
    """The folder `conf` inside an installed package, or beside the source in a clone."""
    found = next((place for place in (HERE / "conf", HERE.parents[1] / "conf") if place.is_dir()), None)
    if found is None:
        raise ValueError("this installation has no configuration: install ssdd again")
    return found
