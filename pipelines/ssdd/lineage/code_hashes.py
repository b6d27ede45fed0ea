"""The hashes of all code that a node's function can reach, found by reading the modules (nothing is imported).

From the function, names are followed through this project's packages: helpers, classes, constants,
re-exports of an `__init__` (those on first use, too: it names them under `TYPE_CHECKING`), imports inside
functions, and dotted module names in strings (for launchers).
Only reached definitions count, one by one: an edit to a neighbour in the same file changes nothing. Code that
cannot be followed name by name (a module passed around, a star import, `globals`) counts as a whole module.
Statements that act on import count for every module that is imported on the way.

In doubt more is counted than is used. A stage that reruns needlessly costs hours, but one that does not rerun
gives a wrong result that nobody notices.
"""

import ast
import functools
import hashlib
import inspect
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssdd.files import sha256_file
from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.module_definitions import Module, Modules
from ssdd.lineage.statements import Import, Statement, hash_statements

FIRST_PARTY = ("ssdd", "ssdd_encoder", "ssdd_decoder", "ssdd_metrics")
# Modules, or `module:name`, that never change a result: writers and finders of files (content hashes count instead),
# lineage itself, messages, bars and trackers, the choice of threads, and the model of the parameters that count for
# nothing.
NEUTRAL = (
    "ssdd.lineage",
    "ssdd.files",
    "ssdd_encoder.files",
    "ssdd_decoder.files",
    "ssdd_metrics.files",
    "ssdd.datasets",
    "ssdd.errors",
    "ssdd.packaged",
    "ssdd.progress",
    "ssdd.runs",
    "ssdd.suggestions",
    "ssdd.training.threads",
    "ssdd.training.trackers",
    "ssdd.runtime_parameters",
)
_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+(:[A-Za-z_]\w*)?")
_DYNAMIC = {"globals", "vars", "eval", "exec", "__import__"}


class CodeHasher:
    """Hashes the code that functions reach; one serves all nodes, since each module is read once.

    What a function reaches is remembered for as long as no file of the packages changes, since to read them all takes
    longer than the rest of a plan.

    Args:
        package: the Kedro package, first-party too.
        cache: remembers; None to read all modules each time.
    """

    def __init__(self, package: str | None = None, cache: Hashes | None = None) -> None:
        roots = dict.fromkeys((*FIRST_PARTY, *([package] if package else [])))
        self._modules = Modules(tuple(roots))
        self._cache = cache
        self._source = self._hash_folders(cache) if cache else None
        self._new: dict[str, str] = {}

    def hash(self, function: Callable[..., Any]) -> tuple[dict[str, str], set[str]]:
        """Hashes all code that a function reaches.

        Args:
            function: a node's function: a module-level one, or a `functools.partial` of one.

        Returns:
            `module:name` -> SHA-256 for every definition reached, and the top-level names of the other
            packages that those definitions use.

        Raises:
            ValueError: the function is a lambda or is defined inside another one, so that its code has no
            name.
        """
        if isinstance(function, functools.partial):
            hashes, packages = self.hash(function.func)
            bound = repr((function.args, sorted(function.keywords.items())))
            return {**hashes, "(bound arguments)": hashlib.sha256(bound.encode()).hexdigest()}, packages
        function = inspect.unwrap(function)
        module, name = function.__module__, function.__qualname__
        if not self._modules.is_ours(module):
            return {f"{module}:{name}": _hash_foreign(function)}, {module.partition(".")[0]}
        if "<" in name:
            raise ValueError(
                f"expected a function defined at the top of its module as a node, got {name} in {module}: "
                "give it a name there, so that its code can be followed"
            )
        known = self._cache.recall(f"{module}:{name}", self._source) if self._cache and self._source else None
        if known is not None:
            hashes, packages = json.loads(known)
            return hashes, set(packages)
        reached = _Reached(self._modules)
        reached.follow(module, name.split(".")[:1])  # of a method the whole class: its attributes may matter
        hashes = dict(sorted(reached.hashes.items()))
        self._new[f"{module}:{name}"] = json.dumps((hashes, sorted(reached.packages)))
        return hashes, reached.packages

    def remember(self) -> None:
        """Remembers what was read, unless a file was edited meanwhile."""
        if self._cache and self._source and self._new and self._source == self._hash_folders(self._cache):
            for name, reached in self._new.items():
                self._cache.remember(name, self._source, reached)

    def _hash_folders(self, cache: Hashes) -> str | None:
        """Hashes all files of the packages; None where they are too unusual to be sure that these are all."""
        # File by file: of a folder, the cache counts compiled modules, which come and go, and leaves out hidden files.
        digest = hashlib.sha256(sys.version.encode())  # syntax trees differ between versions
        for root in self._modules.folders:
            for folder, inner, files in os.walk(root):
                inner[:] = sorted(set(inner) - {"__pycache__"})
                if any(os.path.islink(os.path.join(folder, name)) for name in inner):
                    return None  # it may lead to code that changes unseen
                for name in sorted(files):
                    path = Path(folder, name)
                    try:
                        content = cache.of(path)
                    except OSError:  # only an error if it is needed
                        return None
                    digest.update(f"{path}\0{content}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


class _Reached:
    """All that one function reaches; `hashes` and `packages` grow with every name that is followed."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules
        self.hashes: dict[str, str] = {}
        self.packages: set[str] = set()
        self._entered: set[str] = set()

    def follow(self, name: str, attributes: list[str]) -> None:
        """Follows `name.a.b`: modules as far as they go, then the definition; no attributes: the whole module."""
        module = self._load(name)
        if module is None:
            return
        if not attributes:
            self._add_all(module)
            return
        attribute, *rest = attributes
        if attribute in module.definitions:
            self._add(module, attribute)
        elif attribute in module.imports:
            self._follow_import(module.imports[attribute], rest)
        elif attribute in module.on_first_use:
            self._follow_import(module.on_first_use[attribute], rest)
        elif self._modules.get(f"{name}.{attribute}") is not None:
            self.follow(f"{name}.{attribute}", rest)
        elif module.stars:
            for star in module.stars:
                self.follow(star, attributes)
        else:  # made at run time by `__getattr__`: any definition of the module may be behind it
            self._add_all(module)

    def _load(self, name: str) -> Module | None:
        """Counts the import of a module; None where it is another package's, neutral, or no module."""
        if not self._modules.is_ours(name):
            self.packages.add(name.partition(".")[0])
            return None
        module = None if _is_neutral(name) else self._modules.get(name)
        if module is not None:
            self._enter(module)
        return module

    def _enter(self, module: Module) -> None:
        """Counts the effects of an import: of the module, its packages, and the modules it imports in turn."""
        if module.name in self._entered:
            return
        self._entered.add(module.name)
        parent = module.name.rpartition(".")[0]
        for name in [parent, *(item.module for item in module.imports.values()), *module.stars]:
            # Packages outside the project count only where reached code uses them, not for a mere import.
            if name and self._modules.is_ours(name):
                self._load(name)
        if module.effects:
            self.hashes[f"{module.name}:(on import)"] = hash_statements(module.effects)
            for statement in module.effects:
                self._follow_names(statement, module)

    def _add_all(self, module: Module) -> None:
        if f"{module.name}:*" in self._entered:
            return
        self._entered.add(f"{module.name}:*")
        for name in module.definitions:
            self._add(module, name)
        for item in (*module.imports.values(), *module.on_first_use.values()):
            self._follow_import(item, [])
        for star in module.stars:
            self.follow(star, [])

    def _add(self, module: Module, name: str) -> None:
        key = f"{module.name}:{name}"
        if key in self.hashes or key in NEUTRAL:
            return
        statements = module.definitions[name]
        self.hashes[key] = hash_statements(statements)  # before its names are followed: functions call each other
        for statement in statements:
            self._follow_names(statement, module)

    def _follow_import(self, item: Import, attributes: list[str]) -> None:
        self.follow(item.module, [item.symbol, *attributes] if item.symbol else attributes)

    def _follow_names(self, statement: Statement, module: Module) -> None:
        """Follows every name and every string of a statement."""
        local = statement.imports
        for name, item in local.items():
            self._load(item.module)
            if name == "*":
                self.follow(item.module, [])
        for root, attributes in statement.chains:
            # An import inside the function hides a definition of the module, as Python has it.
            if root in local:
                self._follow_import(local[root], attributes)
            elif root in module.definitions:
                self._add(module, root)
            elif root in module.imports:
                self._follow_import(module.imports[root], attributes)
            elif root in _DYNAMIC:
                self._add_all(module)
            else:  # a builtin, a local variable, or a name from a star import
                for star in module.stars:
                    self.follow(star, [root])
        for text in statement.strings:
            self._follow_text(text, module)

    def _follow_text(self, text: str, module: Module) -> None:
        """Follows a string that names a module (`package.module`, `package.module:name`) or a file next to it."""
        # Prose and multi-line strings name nothing, and looking each one up on the disk is slow.
        if len(text) > 200 or "." not in text or any(space in text for space in "\n \0"):
            return
        if _MODULE_NAME.fullmatch(text) and self._modules.is_ours(text):
            name, _, attribute = text.partition(":")
            if self._modules.get(name) is not None:
                self.follow(name, [attribute] if attribute else [])
            else:  # `package.module.name`; anything else is the name of a file, or mere text
                parent, _, last = name.rpartition(".")
                found = self._modules.get(parent)
                if found is not None and (last in found.definitions or last in found.imports):
                    self.follow(parent, [last])
        elif "/" not in text and (module.path.parent / text).is_file() and not text.endswith(".py"):
            self.hashes[f"{module.name}:{text}"] = sha256_file(module.path.parent / text)  # a template


def _is_neutral(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NEUTRAL)


def _hash_foreign(function: Callable[..., Any]) -> str:
    """The hash of a function outside the project (a notebook's cell, a library's): of its own text alone."""
    # A library's callees are covered by its release; a notebook's cells have no module that could be read.
    try:
        text = textwrap.dedent(inspect.getsource(function))
        return hash_statements(Statement(tree, "") for tree in ast.parse(text).body)
    except (OSError, TypeError, SyntaxError):
        code = getattr(function, "__code__", None)
        made_of = repr((code.co_code, code.co_consts, code.co_names) if code else function.__qualname__)
        return hashlib.sha256(made_of.encode()).hexdigest()
