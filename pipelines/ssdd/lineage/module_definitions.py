"""A module's text as a table of its definitions, imports and effects, read without importing the module.

A plan must not import the nodes' code: torch alone takes longer to import than the whole plan.
"""

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ssdd.lineage.statements import Import, Statement


@dataclass
class Module:
    """A parsed module.

    Attributes:
        name: dotted name, e.g. `ssdd.training.loop`.
        path: its file.
        definitions: top-level name -> the statements that bind it.
        imports: top-level local name -> its meaning.
        effects: statements that act on import (calls, loops, decorated registrations), other than
            definitions.
        stars: modules from which everything is imported.
        on_first_use: like `imports`, of names that the module's `__getattr__` imports when they are first used.
        roots: the first-party top-level packages.
    """

    name: str
    path: Path
    roots: frozenset[str]
    definitions: dict[str, list[Statement]] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    effects: list[Statement] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)
    on_first_use: dict[str, Import] = field(default_factory=dict)

    @property
    def is_package(self) -> bool:
        """Whether the module is a package's `__init__`."""
        return self.path.name == "__init__.py"

    @cached_property
    def package(self) -> str:
        """The package against which its relative imports are resolved."""
        return self.name if self.is_package else self.name.rpartition(".")[0]


class Modules:
    """Finds and reads modules of some top-level packages, each once.

    Args:
        roots: names of the first-party top-level packages; those not installed are passed over.
    """

    def __init__(self, roots: tuple[str, ...]) -> None:
        self._folders: dict[str, list[Path]] = {}
        for root in roots:
            spec = importlib.util.find_spec(root)  # of a top-level name: imports nothing
            if spec is not None and spec.submodule_search_locations:
                self._folders[root] = [Path(place) for place in spec.submodule_search_locations]
        self._known: dict[str, Module | None] = {}

    @property
    def folders(self) -> list[Path]:
        """The folders of the packages."""
        return [folder for places in self._folders.values() for folder in places]

    def is_ours(self, module: str) -> bool:
        """Whether the dotted name lies in a first-party package."""
        return module.partition(".")[0] in self._folders

    def get(self, module: str) -> Module | None:
        """Returns the parsed module, or None where there is no such file.

        Raises:
            ValueError: the file is no valid Python.
        """
        if module not in self._known:
            path = self._find(module)
            self._known[module] = None if path is None else _read(module, path, frozenset(self._folders))
        return self._known[module]

    def _find(self, module: str) -> Path | None:
        root, *parts = module.split(".")
        for folder in self._folders.get(root, []):
            base = folder.joinpath(*parts)
            for candidate in (base / "__init__.py", base.with_suffix(".py") if parts else None):
                if candidate is not None and candidate.is_file():
                    return candidate
        return None


def _read(name: str, path: Path, roots: frozenset[str]) -> Module:
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"expected valid Python in {path}, got: {error}") from None
    module = Module(name, path, roots)
    for statement in tree.body:
        _enter(statement, module)
    if "__getattr__" not in module.definitions:  # the names are for annotations alone
        module.on_first_use.clear()
    return module


def _enter(tree: ast.stmt, module: Module) -> None:
    """Enters a top-level statement into the module's table."""
    statement = Statement(tree, module.package)
    match tree:
        case ast.Expr(value=ast.Constant()):
            pass
        case ast.Import() | ast.ImportFrom():
            _enter_import(statement, module)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            module.definitions.setdefault(name, []).append(statement)
            if any(_registers(decorator, module) for decorator in tree.decorator_list):
                module.effects.append(statement)
        case ast.Assign(targets=targets) if all(_names(target) for target in targets):
            for target in targets:
                for name in _names(target):
                    if name != "__all__":  # a list of exports changes no result
                        module.definitions.setdefault(name, []).append(statement)
        case ast.AnnAssign(target=ast.Name(id=name)):
            module.definitions.setdefault(name, []).append(statement)
        case ast.If(test=test, body=body, orelse=orelse) if "TYPE_CHECKING" in ast.unparse(test):
            for inner in orelse:  # the other branch is for type checkers and never runs
                _enter(inner, module)
            for inner in body:
                module.on_first_use.update(Statement(inner, module.package).imports)
        case _:
            # `try: import x`, loops, calls: each may bind names and act, so it counts as both.
            module.imports.update(statement.imports)
            for name in statement.bound:
                module.definitions.setdefault(name, []).append(statement)
            module.effects.append(statement)


def _enter_import(statement: Statement, module: Module) -> None:
    found = dict(statement.imports)
    if "*" in found:
        module.stars.append(found.pop("*").module)
    if not (isinstance(statement.tree, ast.ImportFrom) and statement.tree.module == "__future__"):
        module.imports.update(found)


def _registers(decorator: ast.expr, module: Module) -> bool:
    """Whether a decorator may do more than wrap: it is this project's own, or a method of some object."""
    root = decorator.func if isinstance(decorator, ast.Call) else decorator
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return False
    item = module.imports.get(root.id)
    return root.id in module.definitions or (item is not None and item.module.partition(".")[0] in module.roots)


def _names(target: ast.expr) -> list[str]:
    if isinstance(target, ast.Name):
        return [target.id]
    if isinstance(target, ast.Tuple | ast.List):
        parts = [_names(element) for element in target.elts]
        return [name for part in parts for name in part] if all(parts) else []
    return []
