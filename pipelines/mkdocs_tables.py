"""The manual's tables of parameters and of commands: from the typed models, `conf/base` and the commands themselves."""

import html
import re
import types
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

CONF = Path(__file__).parents[1] / "conf/base"
LONGEST = 60  # characters of a value in a table
WORDS = {int: "int", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "any value"}
KEDRO = (
    "`--pipeline`, `--env`, `--params`, `--tags` and `--nodes` are Kedro's own options: they say what runs, and with "
    "which values, as in `kedro run --pipeline=evaluate --env=demo --params run_name=mine,evaluate.limit=100`."
)


def parameters() -> str:
    """A table for each group of parameters, from its typed model; the groups of one model share a table."""
    conf = _quickstart()
    groups: dict[Any, list[str]] = {}
    for name, kind in parameter_types().items():
        groups.setdefault(kind, []).append(name)
    tables = []
    for kind, names in groups.items():
        if not hasattr(kind, "model_fields"):
            continue
        about = escaped((kind.__doc__ or "").split("\n\n")[0].replace("\n", " "))
        if len(names) > 1:
            about += f"\n\nPrefix each name with the stage, such as `{names[-1]}.{next(iter(kind.model_fields))}`."
        used = {name: kind(**conf.get(name, {})) for name in names}
        rows = _rows(kind, used, "" if len(names) > 1 else f"{names[0]}.")
        table = _table(("parameter", "values", "default", "quickstart", "meaning"), rows)
        tables.append(f"## {', '.join(f'`{name}`' for name in names)}\n\n{about}\n\n{table}")
    text = (CONF / "parameters.yml").read_text(encoding="utf-8")
    meanings = dict(re.findall(r"^(\w+):[^#\n]*# (.*)$", text, re.MULTILINE))
    alone = ((f"`{n}`", _code(value), meanings.get(n, "")) for n, value in conf.items() if not isinstance(value, dict))
    return "\n".join([f"## Single values\n\n{_table(('parameter', 'quickstart', 'meaning'), alone)}", *tables])


def _quickstart() -> dict[str, Any]:
    """The parameters of a plain run: anchors merged, `${globals:...}` replaced."""
    known = yaml.safe_load((CONF / "globals.yml").read_text(encoding="utf-8"))
    text = (CONF / "parameters.yml").read_text(encoding="utf-8")
    text = re.sub(r"\$\{globals:(\w+)\}", lambda found: yaml.safe_dump(known[found[1]]).split("\n")[0], text)
    return dict(yaml.safe_load(text))


@cache
def parameter_types() -> dict[str, Any]:
    """Top parameter -> its type, from the functions of all nodes that take it."""
    from kedro.validation.type_extractor import TypeExtractor

    from ssdd.pipeline_registry import register_pipelines

    found = TypeExtractor(register_pipelines()).extract_types_from_pipelines()
    order = list(yaml.safe_load((CONF / "parameters.yml").read_text(encoding="utf-8")))
    names = sorted(name for name in found if "." not in name)  # a part of a group is in the group's table
    return {name: found[name] for name in sorted(names, key=lambda n: order.index(n) if n in order else len(order))}


def _rows(kind: Any, used: dict[str, Any], before: str) -> Iterator[tuple[str, ...]]:
    """Name, values, default, values in the quickstart and meaning of each parameter of a model, with its parts."""
    for name, field in kind.model_fields.items():
        values = {stage: getattr(group, name) for stage, group in used.items()}
        if hasattr(field.annotation, "model_fields"):
            yield from _rows(field.annotation, values, f"{before}{name}.")
            continue
        default = "" if field.is_required() else _code(field.get_default(call_default_factory=True))
        same: dict[str, list[str]] = {}
        for stage, value in values.items():
            same.setdefault(_code(value), []).append(stage)
        each = "; ".join(f"{value} ({', '.join(stages)})" for value, stages in same.items())
        quickstart = next(iter(same)) if len(same) == 1 else each
        yield (
            f"`{before}{name}`",
            in_words(field.annotation, field.metadata),
            default,
            quickstart,
            field.description or "",
        )


def _code(value: Any) -> str:
    """A value as YAML has it, in backticks."""
    plain = re.sub(r"\n\.\.\.\n$|\n$", "", yaml.safe_dump(_plain(value), default_flow_style=True, width=1000))
    plain = f"{value:g}" if isinstance(value, float) else plain.strip("'")
    return f"`{plain}`" if len(plain) <= LONGEST else "a list, see `conf/base/parameters.yml`"


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump())
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def in_words(kind: Any, limits: Iterable[Any] = (), plural: bool = False) -> str:
    """A type and its limits in words: `int from 1 to 4`, `list of numbers above 0`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return in_words(
            parts[0], [*limits, *(m for part in parts[1:] for m in getattr(part, "metadata", [part]))], plural
        )
    if origin in (Union, types.UnionType):
        words = [in_words(part, limits if part in (int, float) else (), plural) for part in parts]
        return _listed([word for text in words for word in text.split(" or ")])
    if origin is Literal:
        return _listed([f"`{part}`" for part in parts])
    if origin is tuple:
        item = in_words(parts[0], plural=True)
        return f"list of {item}" if parts[-1] is Ellipsis else f"list of {len(parts)} {item}"
    if origin is dict or kind is dict:
        return "group of any names"
    if hasattr(kind, "model_fields"):
        return f"groups of {', '.join(f'`{name}`' for name in kind.model_fields)}"
    word = WORDS.get(kind, "text")
    found = {
        name: getattr(limit, name) for limit in limits for name in ("ge", "gt", "le", "lt") if hasattr(limit, name)
    }
    return f"{word}{'s' if plural and word != 'null' else ''}{_range(found)}"


def _range(found: dict[str, Any]) -> str:
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    shown = {2**63: "2^63", 2**62: "2^62", 2**20: "2^20"}
    return "".join(f" {words[name]} {shown.get(found[name], found[name])}" for name in words if name in found)


def _listed(words: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def escaped(text: str) -> str:
    """Plain text as Markdown of a table: `<run>`, `*` and `|` show as they are; in backticks they do so anyway."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([*|])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "".join(parts)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(map(escaped, line))} |\n" for line in lines)


def commands() -> str:
    """Every subcommand of `ssdd` with its text and options, and the options that this project adds to `kedro run`."""
    import click

    from ssdd.cli import run
    from ssdd.commands.group import cli

    parts = [_command(f"ssdd {name}", command) for name, command in sorted(cli.commands.items())]
    own = click.Command("run", params=run.params[:3], help=f"{run.help}\n\n{KEDRO}")
    return "\n".join([*parts, _command("kedro run", own)])


def _command(name: str, command: Any) -> str:
    import click

    text, _, examples = (command.help or "").partition("\b")
    rows = [_option(parameter) for parameter in command.params if isinstance(parameter, click.Option)]
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    shown = "\n".join(line.strip() for line in examples.strip().splitlines())
    code = f"\n```text\n{shown}\n```\n" if shown else ""
    about = escaped(re.sub(r"(?m)^ +", "", text).strip())
    heading = f"## {name}\n\n`{' '.join([name, *arguments])}`\n\n{about}\n{code}"
    return f"{heading}\n{_table(('option', 'values', 'default', 'meaning'), rows)}\n" if rows else f"{heading}\n"


def _option(option: Any) -> tuple[str, str, str, str]:
    """Name, values, default and meaning of an option."""
    meaning = re.sub(r"\s+", " ", option.help or "").strip()
    stated = re.search(r" ?\[default: (.*?)\]$", meaning)
    default = "required" if option.required else stated[1] if stated else ""
    if option.show_default and not default:
        default = option.show_default if isinstance(option.show_default, str) else f"`{_text(option.default)}`"
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    return names, _accepted(option), default, meaning[: stated.start()] if stated else meaning


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _accepted(option: Any) -> str:
    """What an option takes, in words."""
    import click

    kind = option.type
    if option.is_flag:
        return "none: a switch"
    if isinstance(kind, click.Choice):
        words = _listed([f"`{getattr(choice, 'value', choice)}`" for choice in kind.choices])
    elif isinstance(kind, click.IntRange | click.FloatRange):
        names = ("gt" if kind.min_open else "ge", kind.min), ("lt" if kind.max_open else "le", kind.max)
        word = "int" if isinstance(kind, click.IntRange) else "number"
        words = word + _range({name: limit for name, limit in names if limit is not None})
    elif isinstance(kind, click.Path):
        place = "path" if kind.file_okay and kind.dir_okay else "file" if kind.file_okay else "folder"
        words = f"{place} that exists" if kind.exists else place
    else:
        words = {"integer": "int", "float": "number"}.get(kind.name, "text")
    named = f"`{option.metavar}`" if option.metavar else ""
    several = ", may be given several times" if option.multiple else ""
    return (", ".join(filter(None, (named, "" if named and words == "text" else words)))) + several
