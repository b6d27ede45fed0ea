"""`python -m ssdd`: the command of the project that `kedro package` has packed.

    tar xf conf-ssdd.tar.gz; python -m ssdd --pipeline=distill

It takes the options of `kedro run`; results go below the working directory.
"""

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main() -> None:
    """Runs a pipeline of the installed package."""
    configure_project("ssdd")
    find_run_command("ssdd")(prog_name="python -m ssdd")


if __name__ == "__main__":
    main()
