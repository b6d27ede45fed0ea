"""Which code a node's function reaches, and its hashes, found by reading the sources (nothing is imported).

From the function, names are followed through this project's packages: helpers, classes, constants,
re-exports of an `__init__`, imports inside functions, and dotted module names in strings (for launchers).
Only what is reached counts, definition by definition: an edit to a neighbour in the same file changes
nothing. What cannot be followed name by name (a module passed around, a star import, `globals`) counts as a
whole module. Statements that act on import count for every module that gets imported on the way.
"""

import ast
import functools
import hashlib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

from ssdd.files import sha256_file
from ssdd.lineage.modules import KEPT, Import, Source, Sources, hash_statements, imports_of

FIRST_PARTY = ("ssdd", "ssdd_encoder", "ssdd_decoder", "ssdd_metrics")
# What never changes a result, as modules or `module:name`: how files get to the disk, the bookkeeping itself,
# bars and trackers, and the model of the parameters that count for nothing.
NEUTRAL = (
    "ssdd.lineage",
    "ssdd.files",
    "ssdd_encoder.files",
    "ssdd_decoder.files",
    "ssdd_metrics.files",
    "ssdd.datasets",
    "ssdd.progress",
    "ssdd.runs",
    "ssdd.suggestions",
    "ssdd.training.trackers",
    "ssdd.parameters:RuntimeConfig",
)
_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(:[A-Za-z_]\w*)?")
_DYNAMIC = {"globals", "vars", "eval", "exec", "__import__"}


class Code:
    """Hashes the code that functions reach; keep one for a run, since sources are read once.

    Args:
        package: the Kedro package, first-party too.
    """

    def __init__(self, package: str | None = None) -> None:
        roots = dict.fromkeys((*FIRST_PARTY, *([package] if package else [])))
        self.sources = Sources(tuple(roots))

    def of(self, function: Callable[..., Any]) -> tuple[dict[str, str], set[str]]:
        """Returns what the function reaches.

        Args:
            function: a node's function: a module-level one, or a `functools.partial` of one.

        Returns:
            `module:name` -> SHA-256 for every definition reached, and the top-level names of the other
            packages that they use.

        Raises:
            ValueError: the function is a lambda or is defined inside another one, so that its code has no
            name.
        """
        if isinstance(function, functools.partial):
            hashes, packages = self.of(function.func)
            bound = repr((function.args, sorted(function.keywords.items())))
            return {**hashes, "(bound arguments)": hashlib.sha256(bound.encode()).hexdigest()}, packages
        function = inspect.unwrap(function)
        module, name = function.__module__, function.__qualname__
        if not self.sources.is_ours(module):
            return {f"{module}:{name}": _hash_foreign(function)}, {module.partition(".")[0]}
        if "<" in name:
            raise ValueError(
                f"expected a function defined at the top of its module as a node, got {name} in {module}: "
                "give it a name there, so that its code can be followed"
            )
        walk = _Walk(self.sources)
        walk.follow(module, name.split(".")[:1])
        return dict(sorted(walk.hashes.items())), walk.packages


class _Walk:
    """One walk through the sources; `hashes` and `packages` grow as it goes."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.hashes: dict[str, str] = {}
        self.packages: set[str] = set()
        self._entered: set[str] = set()

    def follow(self, module: str, names: list[str]) -> None:
        """Follows `module.a.b`: modules as far as they go, then the definition; no names: all of it."""
        if not self.sources.is_ours(module):
            self.packages.add(module.partition(".")[0])
            return
        if _is_neutral(module):
            return
        source = self.sources.get(module)
        if source is None:
            return
        self._enter(source)
        if not names:
            self._whole(source)
            return
        name, *rest = names
        if name in source.definitions:
            self._define(source, name)
        elif name in source.imports:
            self._import(source.imports[name], rest)
        elif self.sources.get(f"{module}.{name}") is not None:
            self.follow(f"{module}.{name}", rest)
        elif source.stars:
            for star in source.stars:
                self.follow(star, names)
        else:  # made at run time by `__getattr__`
            self._whole(source)

    def _enter(self, source: Source) -> None:
        """Counts what importing the module does, for itself, its packages and what it imports in turn."""
        if source.name in self._entered:
            return
        self._entered.add(source.name)
        parent = source.name.rpartition(".")[0]
        modules = [parent, *(item.module for item in source.imports.values()), *source.stars]
        for module in modules:
            if module and self.sources.is_ours(module) and not _is_neutral(module):
                found = self.sources.get(module)
                if found is not None:
                    self._enter(found)
        if source.effects:
            self.hashes[f"{source.name}:(on import)"] = hash_statements(source.effects)
            for statement in source.effects:
                self._references(statement, source)

    def _whole(self, source: Source) -> None:
        if f"{source.name}:*" in self._entered:
            return
        self._entered.add(f"{source.name}:*")
        for name in source.definitions:
            self._define(source, name)
        for item in source.imports.values():
            self._import(item, [])
        for module in source.stars:
            self.follow(module, [])

    def _define(self, source: Source, name: str) -> None:
        key = f"{source.name}:{name}"
        if key in self.hashes or key in NEUTRAL:
            return
        statements = source.definitions[name]
        self.hashes[key] = hash_statements(statements)
        for statement in statements:
            self._references(statement, source)

    def _import(self, item: Import, names: list[str]) -> None:
        self.follow(item.module, [item.symbol, *names] if item.symbol else names)

    def _references(self, statement: ast.stmt, source: Source) -> None:
        local = imports_of(statement, source.package)
        for item in local.values():
            self._enter_module(item.module)
        for item in (item for name, item in local.items() if name == "*"):
            self.follow(item.module, [])
        for root, names in _chains(statement):
            if root in local:
                self._import(local[root], names)
            elif root in source.definitions:
                self._define(source, root)
            elif root in source.imports:
                self._import(source.imports[root], names)
            elif root in _DYNAMIC:
                self._whole(source)
            else:  # perhaps from a star import
                for module in source.stars:
                    self.follow(module, [root])
        for text in _texts(statement):
            self._text(text, source)

    def _enter_module(self, module: str) -> None:
        if not self.sources.is_ours(module):
            self.packages.add(module.partition(".")[0])
        elif not _is_neutral(module):
            source = self.sources.get(module)
            if source is not None:
                self._enter(source)

    def _text(self, text: str, source: Source) -> None:
        """A string may name a module (`package.module`, `package.module:name`) or a file beside it."""
        if len(text) > 200 or "." not in text or any(space in text for space in "\n \0"):
            return
        if _MODULE_NAME.fullmatch(text) and self.sources.is_ours(text):
            module, _, name = text.partition(":")
            if self.sources.get(module) is not None:
                self.follow(module, [name] if name else [])
            else:  # `package.module.name`; anything else is a file's name or mere text
                parent, _, last = module.rpartition(".")
                found = self.sources.get(parent)
                if found is not None and (last in found.definitions or last in found.imports):
                    self.follow(parent, [last])
        elif "/" not in text and (source.path.parent / text).is_file() and not text.endswith(".py"):
            self.hashes[f"{source.name}:{text}"] = sha256_file(source.path.parent / text)


def _is_neutral(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NEUTRAL)


@functools.lru_cache(KEPT)
def _chains(statement: ast.stmt) -> list[tuple[str, list[str]]]:
    """Every name that is read, with the attributes taken from it: `a.b.c` gives `a`, [b, c]; each once."""
    found: dict[tuple[str, ...], None] = {}
    inner: set[int] = set()
    for node in ast.walk(statement):
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


@functools.lru_cache(KEPT)
def _texts(statement: ast.stmt) -> list[str]:
    """Every string that is used (a docstring is not)."""
    unused = {id(node.value) for node in ast.walk(statement) if isinstance(node, ast.Expr)}
    texts = [n for n in ast.walk(statement) if isinstance(n, ast.Constant) and id(n) not in unused]
    return [node.value for node in texts if isinstance(node.value, str)]


def _hash_foreign(function: Callable[..., Any]) -> str:
    """Of a function outside the project (a notebook's cell, a library's): its own source alone."""
    try:
        text = textwrap.dedent(inspect.getsource(function))
        return hash_statements(ast.parse(text).body)
    except (OSError, TypeError, SyntaxError):
        code = getattr(function, "__code__", None)
        made_of = repr((code.co_code, code.co_consts, code.co_names) if code else function.__qualname__)
        return hashlib.sha256(made_of.encode()).hexdigest()
