"""`ssdd doctor`: one screen about this installation and machine, and what is wrong with them."""

import json
from typing import Any

import click


@click.command(short_help="Check the installation and the machine.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, for a report of a defect.")
@click.option("--paths", is_flag=True, help="Also tell where things lie; the paths may contain your name.")
def doctor(as_json: bool, paths: bool) -> None:
    """Show versions, processor, GPU, free memory, optional parts, pretrained networks, and what is wrong.

    Without --paths, the output contains no name of a user or folder. The status is 1 if something is wrong.

    \b
    ssdd doctor
    ssdd doctor --json
    """
    try:
        from ssdd.commands.diagnosis import diagnosis
    except ModuleNotFoundError as error:
        raise click.ClickException(f"ssdd doctor needs {error.name}: pip install 'ssdd[demo]'") from None

    found = diagnosis(paths)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _show(found)
    if found["problems"]:
        raise SystemExit(1)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ssdd.commands.options import printable

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    for name, value in _rows(found).items():
        table.add_row(name, Text(printable(value)))
    for number, problem in enumerate(found["problems"] or ["nothing"]):
        table.add_row("wrong" if number == 0 else "", Text(printable(problem)))
    Console().print(table)


def _rows(found: dict[str, Any]) -> dict[str, str]:
    from ssdd.commands.diagnosis import OURS

    releases, chip, gpu, project = (found[name] for name in ("versions", "processor", "gpu", "project"))
    main = [name for name in ("torch", "kedro", "diffusers", "numpy", "pillow", "safetensors") if name in releases]
    missing = {part: lacks for part, lacks in found["parts"].items() if lacks}
    rows = {
        "packages": ", ".join(f"{name} {releases[name]}" for name in OURS if name in releases),
        "libraries": ", ".join(f"{name} {releases[name]}" for name in main),
        "system": f"Python {found['system']['python']}, {found['system']['platform']}",
        "processor": _processor(chip),
        "GPU": _gpu(gpu),
        "free": ", ".join(_free(found["free"])),
        "variables": " ".join(f"{name}={value}" for name, value in found["environment"].items()) or "none set",
        "parts": ", ".join(part for part in found["parts"] if part not in missing) or "none",
        "not installed": "; ".join(f"{part} lacks {', '.join(lacks)}" for part, lacks in missing.items()) or "none",
        "networks": ", ".join(n if v is True else f"{n} ({v})" for n, v in found["networks"].items()) or "none found",
        "project": "this folder is in none" if project is None else f"yes, with {project['runs']} runs",
    }
    return rows | {f"path of {name}": value for name, value in found.get("paths", {}).items() if value}


def _processor(chip: dict[str, Any]) -> str:
    known = f"{chip['name']} ({chip['architecture']}), {chip['cores']} cores"
    if "threads" not in chip:
        return known
    return f"{known}, {chip['threads']} threads, {chip['vectors']}, {'AMX' if chip['amx'] else 'no AMX'}"


def _gpu(gpu: dict[str, Any]) -> str:
    build = f"torch is built for CUDA {gpu['cuda']}" if gpu["cuda"] else "torch is built without CUDA"
    names = gpu["usable"] or [f"{name} (not usable)" for name in gpu["present"]]
    return f"{', '.join(names) or 'none'}; {build}"


def _free(free: dict[str, int]) -> list[str]:
    return [
        f"{free[what] / 1e9:.1f} of {free[f'{what}_total'] / 1e9:.1f} GB of {what}"
        for what in ("memory", "disk")
        if what in free
    ]
