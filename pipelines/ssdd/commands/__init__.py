"""The `ssdd` command line."""


def main() -> None:
    """Runs `ssdd`; see `ssdd --help`."""
    # `pip install ssdd` brings the networks alone; without this, the command would end in a traceback.
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        raise SystemExit(f"Error: the ssdd command needs {error.name}: pip install 'ssdd[demo]'") from None
    from ssdd.commands.group import cli

    cli(prog_name="ssdd")
