"""The manual's diagrams, of imports and of stages, and its list of modules: from the source of the application."""

from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


def architecture() -> str:
    """The rooms of the application and the packages, with an arrow for each import that no other path implies."""
    app = HERE / "ssdd"
    units: dict[str, set[str]] = {}
    for file in sorted(app.rglob("*.py")):
        parts = file.relative_to(app).parts
        units.setdefault(parts[0].removesuffix(".py"), set()).update(_imported(file))
    rooms = {folder.name for folder in app.iterdir() if any(folder.rglob("*.py"))}
    floors = {name: _reached(name, units) for name in units}
    boxes = {name: name for name in rooms}
    # Loose files are two boxes: those that import no room are shared by all rooms, the others are entrances.
    boxes |= {name: "entrances" if floors[name] & rooms else "shared" for name in units.keys() - rooms}
    graph: dict[str, set[str]] = {}
    for name, others in units.items():
        targets = {boxes.get(other, other) for other in others} - {boxes[name], "entrances"}
        graph.setdefault(boxes[name], set()).update(targets)
        graph |= {other: graph.get(other, set()) for other in targets}
    return _drawing(graph, "imports of the rooms")


def _imported(file: Path) -> set[str]:
    """Rooms and loose files of the application, and packages, that a file imports."""
    import ast

    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("ssdd.")}
        found |= {name.split(".")[0] for name in names if name.startswith("ssdd_")}
    known = {path.stem for path in (HERE / "ssdd").iterdir()} | {"ssdd_encoder", "ssdd_decoder", "ssdd_metrics"}
    return (found & known) - {file.relative_to(HERE / "ssdd").parts[0].removesuffix(".py")}


def _reached(name: str, units: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = [name]
    while pending:
        new = units.get(pending.pop(), set()) - found
        found |= new
        pending += new
    return found


def stages() -> str:
    """The stages, with an arrow where one takes what another makes."""
    from ssdd.pipeline_registry import register_pipelines

    makers: dict[str, str] = {}
    nodes = {node.name: node for pipeline in register_pipelines().values() for node in pipeline.nodes}.values()
    for node in nodes:
        makers |= {name.partition("@")[0]: node.name.partition(".")[0] for name in node.outputs}
    graph: dict[str, set[str]] = {node.name.partition(".")[0]: set() for node in nodes}
    for node in nodes:
        stage = node.name.partition(".")[0]
        graph[stage] |= {makers[n.partition("@")[0]] for n in node.inputs if n.partition("@")[0] in makers} - {stage}
    return _drawing(graph, "stages of the pipelines", upwards=True)


def _drawing(graph: dict[str, set[str]], title: str, upwards: bool = False) -> str:
    """An SVG of a graph without circles: each node below all that point to it (or above, if `upwards`)."""
    graph = _reduced(graph)

    @cache
    def floor(name: str) -> int:
        return max((floor(other) + 1 for other in graph[name]), default=0)

    floors: dict[int, list[str]] = {}
    for name in sorted(graph):
        floors.setdefault(floor(name), []).append(name)
    top = max(floors)
    width = max(len(names) for names in floors.values()) * 130
    place: dict[str, tuple[float, float]] = {}
    for level, names in sorted(floors.items()):
        y = 30 + 62 * (level if upwards else top - level)
        names.sort(key=lambda n: sum(place[o][0] for o in graph[n]) / max(len(graph[n]), 1) if level else 0)
        # Boxes that are alone on their floor stand to the left and right in turn, so that long arrows pass beside them.
        aside = (level % 2 - 0.5) * 0.26 if len(names) == 1 else 0
        place |= {name: (width * ((number + 0.5) / len(names) + aside), y) for number, name in enumerate(names)}
    parts = []
    for name, others in graph.items():
        for other in sorted(others):
            (x, y), (u, v) = place[name], place[other]
            y, v = (y - 14, v + 14) if upwards else (y + 14, v - 14)
            middle = (y + v) / 2
            parts.append(f'<path d="M{u:.0f} {v:.0f}C{u:.0f} {middle:.0f} {x:.0f} {middle:.0f} {x:.0f} {y:.0f}"/>')
    for name, (x, y) in place.items():
        parts.append(f'<rect x="{x - 58:.0f}" y="{y - 14:.0f}" width="116" height="28" rx="5"/>')
        parts.append(f'<text x="{x:.0f}" y="{y + 1:.0f}">{name}</text>')
    style = f"min-width:{min(width, 640)}px;max-width:{width}px"
    size = f'viewBox="0 0 {width} {60 + 62 * top}" style="{style}" role="img" aria-label="{title}"'
    drawn = f'<svg class="diagram" xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'
    return f'<div class="wide">{drawn}</div>\n'


def _reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without arrows that a longer way implies.

    Raises:
        ValueError: it has a circle.
    """
    from graphlib import CycleError, TopologicalSorter

    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError(f"expected imports without a circle, got {' -> '.join(error.args[1])}") from None
    reach: dict[str, set[str]] = {}
    for name in order:
        reach[name] = set().union(*({other} | reach[other] for other in graph[name]))
    return {
        name: {other for other in others if not any(other in reach[third] for third in others - {other})}
        for name, others in graph.items()
    }


def modules() -> str:
    """Each room of the application with its modules, each by the first line of its docstring."""
    import ast

    rows: dict[str, list[str]] = {}
    for file in sorted((HERE / "ssdd").rglob("*.py")):
        parts = file.relative_to(HERE / "ssdd").parts
        about = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n")[0]
        if file.stem != "__init__" and about:
            rows.setdefault("/".join(parts[:-1]) or "ssdd", []).append(f"* `{file.stem}`: {about}")
    return "\n\n".join(f"**{room}**\n\n" + "\n".join(lines) for room, lines in rows.items()) + "\n"
