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
    conf = _values("base")
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


def environments() -> str:
    """For each environment beside `base`, a table of what differs from the quickstart."""
    base = _values("base")
    parts = []
    for folder in sorted(path for path in CONF.parent.iterdir() if path.is_dir() and path != CONF):
        values = _values(folder.name)
        comment = re.match(r"(?:#.*\n)+", (folder / "parameters.yml").read_text(encoding="utf-8"))
        about = re.sub(r"(?m)^# ?", "", comment[0]) if comment else ""
        rows, long = _changes(base, values)
        table = _table(("parameter", "of", "quickstart", folder.name, "meaning"), rows)
        blocks = [f"`{name}`:\n\n```yaml\n{text}```\n" for name, text in long.items()]
        parts.append("\n".join([f"### `--env={folder.name}`\n\n{about}\n{table}", *blocks]))
    return "\n".join(parts)


def _changes(base: dict[str, Any], values: dict[str, Any]) -> tuple[list[tuple[str, ...]], dict[str, str]]:
    """Rows of the parameters that differ, one for all groups alike, and the YAML of those too long for a row."""
    known = parameter_types()
    if unknown := values.keys() - known.keys() - {n for n, value in base.items() if not isinstance(value, dict)}:
        raise ValueError(f"expected groups of parameters, got {sorted(unknown)}")
    found: dict[tuple[str, str, str], dict[str, Any]] = {}  # name, value and meaning -> values of the quickstart
    long = {}
    for group, kind in known.items():
        if not hasattr(kind, "model_fields"):
            continue
        sides = ({group: side.get(group, {})} for side in (base, values))
        for (name, field, old), (_, _, new) in zip(*(_fields(kind, side, "") for side in sides), strict=True):
            if _yaml(old[group]) == _yaml(new[group]):
                continue
            shown = _code(new[group], "listed below")
            found.setdefault((f"`{name}`", shown, field.description or ""), {})[group] = old[group]
            if not shown.startswith("`"):
                long[f"{group}.{name}"] = yaml.safe_dump(_plain(new[group]), default_flow_style=None, width=1000)
    rows = [(name, ", ".join(old), _each(old), new, meaning) for (name, new, meaning), old in found.items()]
    alone = (n for n, value in base.items() if not isinstance(value, dict) and values[n] != value)
    return [*((f"`{n}`", "", _code(base[n]), _code(values[n]), "") for n in alone), *rows], long


def _each(values: dict[str, Any]) -> str:
    """The value of all stages, or each value with its stages."""
    same: dict[str, list[str]] = {}
    for stage, value in values.items():
        same.setdefault(_code(value), []).append(stage)
    return next(iter(same)) if len(same) == 1 else "; ".join(f"{v} ({', '.join(stages)})" for v, stages in same.items())


def _values(environment: str) -> dict[str, Any]:
    """The parameters of a run in an environment, as Kedro reads them."""
    from kedro.config import OmegaConfigLoader

    from ssdd.settings import CONFIG_LOADER_ARGS

    arguments = {**CONFIG_LOADER_ARGS, "default_run_env": environment}
    return dict(OmegaConfigLoader(str(CONF.parent), env=environment, **arguments)["parameters"])


@cache
def parameter_types() -> dict[str, Any]:
    """Top parameter -> its type, from the functions of all nodes that take it."""
    from kedro.validation.type_extractor import TypeExtractor

    from ssdd.pipeline_registry import register_pipelines

    found = TypeExtractor(register_pipelines()).extract_types_from_pipelines()
    order = list(yaml.safe_load((CONF / "parameters.yml").read_text(encoding="utf-8")))
    names = sorted(name for name in found if "." not in name)  # a part of a group is in the group's table
    return {name: found[name] for name in sorted(names, key=lambda n: order.index(n) if n in order else len(order))}


def _fields(kind: Any, used: dict[str, Any], before: str) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, field and value for each stage of each parameter of a model, with its parts; groups may be dicts."""
    for name, field in kind.model_fields.items():
        values = {stage: _value(group, name, field) for stage, group in used.items()}
        if hasattr(field.annotation, "model_fields"):
            yield from _fields(field.annotation, values, f"{before}{name}.")
        else:
            yield f"{before}{name}", field, values


def _value(group: Any, name: str, field: Any) -> Any:
    if not isinstance(group, dict):
        return getattr(group, name)
    return group[name] if name in group else field.get_default(call_default_factory=True)


def _rows(kind: Any, used: dict[str, Any], before: str) -> Iterator[tuple[str, ...]]:
    """Name, values, default, values in the quickstart and meaning of each parameter of a model, with its parts."""
    for name, field, values in _fields(kind, used, before):
        default = "" if field.is_required() else _code(field.get_default(call_default_factory=True))
        yield (
            f"`{name}`",
            in_words(field.annotation, field.metadata),
            default,
            _each(values),
            field.description or "",
        )


def _code(value: Any, otherwise: str = "a list, see `conf/base/parameters.yml`") -> str:
    """A value as YAML has it, in backticks, unless it is too long."""
    plain = _yaml(value)
    return f"`{plain}`" if len(plain) <= LONGEST else otherwise


def _yaml(value: Any) -> str:
    plain = re.sub(r"\n\.\.\.\n$|\n$", "", yaml.safe_dump(_plain(value), default_flow_style=True, width=1000))
    return f"{value:g}" if isinstance(value, float) else plain.strip("'")


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
    wide = (*head[:-1], f"{head[-1]} {{ .meaning }}")  # a class, by the extension attr_list
    lines = [wide if len(head) > 3 else head, ("---",) * len(head), *rows]
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
