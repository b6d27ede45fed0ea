"""The facts of a statement, read without running it: its text, its imports, and the names and strings in it.

The text is taken from the syntax tree without comments, docstrings and layout, so that edits to those rerun nothing.
"""

import ast
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

_UNCOUNTED = frozenset({"type_comment", "kind", "type_ignores", "ctx"})


@dataclass(frozen=True)
class Import:
    """The meaning of an imported name: a module, or a name inside one."""

    module: str
    symbol: str | None = None


class Statement:
    """A statement, each of whose facts is read once: the nodes of a pipeline reach much the same code.

    Args:
        tree: its syntax tree.
        package: the package against which its relative imports are resolved.
    """

    def __init__(self, tree: ast.stmt, package: str) -> None:
        self.tree = tree
        self._package = package

    @cached_property
    def text(self) -> bytes:
        """Names, structure and constants."""
        tokens: list[str] = []
        _add_tokens(self.tree, tokens)
        return "\0".join([*tokens, ""]).encode("utf-8", "surrogatepass")

    @cached_property
    def imports(self) -> dict[str, Import]:
        """The names bound by the import statements inside, functions' own ones included."""
        found: dict[str, Import] = {}
        for node in self._nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = Import(alias.name if alias.asname else top)
                    # `import a.b` binds `a` and yet loads `a.b`, whose effects count: kept under a name no code can
                    # have.
                    if not alias.asname and top != alias.name:
                        found[f"{alias.name} (loaded)"] = Import(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = _absolute(node, self._package)
                for alias in node.names:
                    found[alias.asname or alias.name] = Import(module, alias.name)
        return found

    @cached_property
    def chains(self) -> list[tuple[str, list[str]]]:
        """Every name that is read, with its attributes: `a.b.c` gives `a`, [b, c]; each once."""
        found: dict[tuple[str, ...], None] = {}
        inner: set[int] = set()
        for node in self._nodes:
            if id(node) in inner:
                continue
            attributes: list[str] = []
            root: ast.AST = node
            while isinstance(root, ast.Attribute):
                attributes.insert(0, root.attr)
                root = root.value
                inner.add(id(root))
            if isinstance(root, ast.Name) and isinstance(root.ctx, ast.Load):
                found[root.id, *attributes] = None
        return [(root, names) for root, *names in found]

    @cached_property
    def strings(self) -> list[str]:
        """Every string except docstrings."""
        unused = {id(node.value) for node in self._nodes if isinstance(node, ast.Expr)}
        constants = [node for node in self._nodes if isinstance(node, ast.Constant) and id(node) not in unused]
        return [node.value for node in constants if isinstance(node.value, str)]

    @cached_property
    def bound(self) -> list[str]:
        """Names bound inside a compound statement (try, with, for, if)."""
        names = []
        for node in self._nodes:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.append(node.id)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.append(node.name)
        return names

    @cached_property
    def _nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))


def hash_statements(statements: Iterable[Statement]) -> str:
    """Returns a SHA-256 of names, structure and constants of statements, without comments and docstrings."""
    digest = hashlib.sha256()
    for statement in statements:
        digest.update(statement.text)
    return digest.hexdigest()


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - (node.level - 1)]
    return ".".join([*base, *([node.module] if node.module else [])])


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
            items = [item for item in items if not _is_docstring(item)]
        if items:
            tokens.append(name)
        for item in items:
            if isinstance(item, ast.AST):
                _add_tokens(item, tokens)
            else:
                tokens.append(f"{type(item).__name__}:{item!r}")
    tokens.append(".")


def _is_docstring(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
