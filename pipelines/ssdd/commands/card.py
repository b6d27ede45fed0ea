"""`ssdd card`: the model card of a run."""

from pathlib import Path

import click

from ssdd.commands import options


@click.command(short_help="Write the model card of a run.")
@options.held
@click.option("-o", "--output", type=options.NEW_FILE, help="File for the card; by default it is printed.")
def card(file: str, output: Path | None) -> None:
    """Write the card of FILE: a run (RUN, RUN@best), or a checkpoint, its folder, a hub id, or demo.

    The card is Markdown with the front matter of the Hugging Face hub: use, data with licences, command and commit,
    held-out figures, limits; of whatever the run has measured so far. Licence and limits are yours to fill in where the
    images are.

    \b
    ssdd card quickstart -o README.md
    """
    from ssdd.files import atomic_write
    from ssdd.packaged import resolve
    from ssdd.stages.release.run_card import card_of

    text = card_of(resolve(file, "ssdd.safetensors"))
    if output is None:
        click.echo(text, nl=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    click.echo(f"{output}: {len(text.splitlines())} lines", err=True)
