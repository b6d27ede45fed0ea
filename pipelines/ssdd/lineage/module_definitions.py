"""A module's text as a table of its definitions, imports and effects, read without importing the module.

A plan must not import the nodes' code: torch alone takes longer to import than the whole plan. Hashes are taken
from the syntax tree without comments, docstrings and layout, so that edits to those rerun nothing.
"""

import ast
import hashlib
import importlib.util
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

# The nodes of a pipeline reach much the same code: results for this many statements are kept between them.
KEPT = 4096
_UNCOUNTED = frozenset({"type_comment", "kind", "type_ignores", "ctx"})


@dataclass(frozen=True)
class Import:
    """The meaning of an imported name: a module, or a name inside one."""

    module: str
    symbol: str | None = None


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
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)
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


def hash_statements(statements: list[ast.stmt]) -> str:
    """Returns a SHA-256 of names, structure and constants of statements, without comments and docstrings."""
    digest = hashlib.sha256()
    for statement in statements:
        digest.update(_text(statement))
    return digest.hexdigest()


@lru_cache(KEPT)
def _text(statement: ast.stmt) -> bytes:
    tokens: list[str] = []
    _add_tokens(statement, tokens)
    return "\0".join([*tokens, ""]).encode("utf-8", "surrogatepass")


@lru_cache(KEPT)
def nodes_of(statement: ast.AST) -> tuple[ast.AST, ...]:
    """Returns the nodes of a statement's tree, in the order of `ast.walk`; several readers want them."""
    return tuple(ast.walk(statement))


@lru_cache(KEPT)
def imports_of(statement: ast.AST, package: str) -> dict[str, Import]:
    """Returns the names bound by the import statements inside a statement, functions' own ones included."""
    found: dict[str, Import] = {}
    for node in nodes_of(statement):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                found[alias.asname or top] = Import(alias.name if alias.asname else top)
                # `import a.b` binds `a` and yet loads `a.b`, whose effects count: kept under a name no code can have.
                if not alias.asname and top != alias.name:
                    found[f"{alias.name} (loaded)"] = Import(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node, package)
            for alias in node.names:
                found[alias.asname or alias.name] = Import(module, alias.name)
    return found


def _add_tokens(node: ast.AST, tokens: list[str]) -> None:
    """Adds the tree in a form that is the same for every Python version (`ast.dump` is not)."""
    # Empty fields are left out because newer releases of Python add fields (`type_params`): with them, an upgrade of
    # Python would make every stage stale.
    tokens.append(type(node).__name__)
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or name in _UNCOUNTED:
            continue
        items = value if isinstance(value, list) else [value]
        if name == "body":
            items = [item for item in items if not _is_text(item)]
        if items:
            tokens.append(name)
        for item in items:
            if isinstance(item, ast.AST):
                _add_tokens(item, tokens)
            else:
                tokens.append(f"{type(item).__name__}:{item!r}")
    tokens.append(".")


def _is_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


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


def _enter(statement: ast.stmt, module: Module) -> None:
    """Enters a top-level statement into the module's table."""
    match statement:
        case ast.Expr(value=ast.Constant()):
            pass
        case ast.Import() | ast.ImportFrom():
            _enter_import(statement, module)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            module.definitions.setdefault(name, []).append(statement)
            if any(_registers(decorator, module) for decorator in statement.decorator_list):
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
                module.on_first_use.update(imports_of(inner, module.package))
        case _:
            # `try: import x`, loops, calls: each may bind names and act, so it counts as both.
            module.imports.update(imports_of(statement, module.package))
            for name in _bound(statement):
                module.definitions.setdefault(name, []).append(statement)
            module.effects.append(statement)


def _enter_import(statement: ast.Import | ast.ImportFrom, module: Module) -> None:
    found = imports_of(statement, module.package)
    if "*" in found:
        module.stars.append(found.pop("*").module)
    if not (isinstance(statement, ast.ImportFrom) and statement.module == "__future__"):
        module.imports.update(found)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


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


def _bound(statement: ast.stmt) -> list[str]:
    """Top-level names bound inside a compound statement (try, with, for, if)."""
    names = []
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.append(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
    return names
