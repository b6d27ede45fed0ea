"""What counts as the code that a function reaches."""

import functools
import gc
import importlib
import sqlite3
import sys

import pytest

from ssdd.lineage import code_hashes as code_module
from ssdd.lineage import module_definitions
from ssdd.lineage.code_hashes import CodeHasher
from ssdd.lineage.content_hashes import Hashes
from ssdd.lineage.statements import Statement

PACKAGE = {
    "__init__": "from pack.shapes import area, circle as round_one\n__all__ = ['area']\n",
    "shapes": """
import math
from dataclasses import dataclass
from . import units
PI, TAU = math.pi, 2 * math.pi
@dataclass
class Circle:
    radius: float
    def area(self): return PI * self.radius ** 2 * units.SCALE
def area(radius): return Circle(radius).area()
def circle(): return TAU
def unrelated(): return 0
""",
    "units": "SCALE = 1.0\nOTHER = 2.0\n",
    "registry": """
TABLE = {}
def register(name):
    def keep(function):
        TABLE[name] = function
        return function
    return keep
""",
    "plugins": """
from pack.registry import register
@register("a")
def first(): return 1
def quiet(): return 2
""",
    "nodes": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pack.units import OTHER
def plain(): return 1
def through_init():
    from pack import area
    return area(1)
def dotted():
    import pack.shapes
    return pack.shapes.circle()
def aliased():
    import pack.shapes as s
    return s.circle()
def passed_around():
    from pack import units
    return vars(units)
def by_text(): return "pack.shapes:circle"
def by_dotted_text(): return "pack.shapes.circle"
def file_name(): return "pack.safetensors"
def template(): return "page.html"
def registered():
    import pack.plugins
    from pack.registry import TABLE
    return TABLE["a"]()
def typed(x: "OTHER"): return x
def starred():
    from pack.star import SCALE
    return SCALE
def on_first_use():
    from pack.lazy import area
    return area(1)
def method(): return Holder().go()
class Holder:
    def go(self):
        import numpy as np
        return np.zeros(1)
def outer():
    def inner(): return 1
    return inner
def recursive(n): return 0 if n == 0 else other(n - 1)
def other(n): return recursive(n)
""",
    "star": "from pack.units import *\n",
    "lazy": """
from importlib import import_module
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from pack.shapes import area
    from pack.units import OTHER
else:
    def __getattr__(name):
        return getattr(import_module("pack." + {"area": "shapes", "OTHER": "units"}[name]), name)
""",
}


@pytest.fixture
def pack(tmp_path, monkeypatch):
    folder = tmp_path / "pack"
    folder.mkdir()
    for name, text in PACKAGE.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "page.html").write_text("<p>")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code_module, "FIRST_PARTY", ("pack",))
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "pack"]:
        del sys.modules[name]


def reached(name):
    hashes, packages = CodeHasher().hash(getattr(importlib.import_module("pack.nodes"), name))
    return set(hashes) - {f"pack.nodes:{name}"}, packages


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain", set()),
        ("through_init", {"pack.shapes:area", "pack.shapes:Circle", "pack.shapes:PI", "pack.units:SCALE"}),
        ("dotted", {"pack.shapes:circle", "pack.shapes:TAU"}),
        ("aliased", {"pack.shapes:circle", "pack.shapes:TAU"}),
        ("passed_around", {"pack.units:SCALE", "pack.units:OTHER"}),
        ("by_text", {"pack.shapes:circle", "pack.shapes:TAU"}),
        ("by_dotted_text", {"pack.shapes:circle", "pack.shapes:TAU"}),
        ("file_name", set()),
        ("template", {"pack.nodes:page.html"}),
        ("typed", set()),
        ("starred", {"pack.units:SCALE"}),
        ("on_first_use", {"pack.shapes:area", "pack.shapes:Circle", "pack.shapes:PI", "pack.units:SCALE"}),
        ("method", {"pack.nodes:Holder"}),
        ("recursive", {"pack.nodes:other"}),
    ],
)
def test_names_are_followed_and_nothing_else(pack, name, expected):
    found = reached(name)[0]
    if name == "passed_around":  # `vars` also makes the node's own module count
        assert expected <= found
    else:
        assert found == expected


def test_what_a_module_does_on_import_counts(pack):
    found = reached("registered")[0]
    assert {"pack.plugins:(on import)", "pack.registry:register", "pack.registry:TABLE"} <= found
    assert "pack.plugins:quiet" not in found


def test_other_packages_are_those_that_the_reached_code_uses(pack):
    assert "numpy" in reached("method")[1]
    assert "numpy" not in reached("plain")[1]
    assert "math" in reached("dotted")[1]


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("return PI * self", "return PI + self", True),
        ("SCALE = 1.0", "SCALE = 1", True),
        ("SCALE = 1.0", "SCALE = 1.0  # per metre", False),
        ("def area(radius): return", 'def area(radius):\n    """Says."""\n    return', False),
        ("def area(radius): return Circle", "\n\n\ndef area(radius):\n    return Circle", False),
        ("def unrelated(): return 0", "def unrelated(): return 1", False),
        ("OTHER = 2.0", "OTHER = 3.0", False),
        (
            "from pack.shapes import area, circle as round_one",
            "from pack.shapes import circle as round_one, area",
            False,
        ),
    ],
)
def test_what_an_edit_changes(pack, tmp_path, old, new, changes):
    function = importlib.import_module("pack.nodes").through_init
    before = remembering(function, tmp_path)
    edited = 0
    for file in pack.glob("*.py"):
        text = file.read_text()
        edited += old in text
        file.write_text(text.replace(old, new))
    assert edited
    after = CodeHasher().hash(function)
    assert remembering(function, tmp_path) == remembering(function, tmp_path) == after
    assert (after[0] != before[0]) == changes


def remembering(function, folder):
    """Hashes a function's code with what an earlier call remembered."""
    with Hashes(folder / "cache.sqlite") as cache:
        hasher = CodeHasher(cache=cache)
        found = hasher.hash(function)
        hasher.remember()
    return found


def test_what_did_not_change_is_not_read_again(pack, tmp_path, monkeypatch):
    function = importlib.import_module("pack.nodes").template
    first = remembering(function, tmp_path)

    def refuse(name, path, roots):
        raise AssertionError(f"{path} is read again")

    with monkeypatch.context() as patch:
        patch.setattr(module_definitions, "_read", refuse)
        assert remembering(function, tmp_path) == first
        for change in (
            lambda: (pack / "page.html").write_text("<b>"),
            lambda: (pack / "new.py").write_text(""),
            lambda: (pack / "star.py").unlink(),
        ):
            change()
            with pytest.raises(AssertionError, match="is read again"):
                remembering(function, tmp_path)
    assert remembering(function, tmp_path) != first


def test_a_damaged_memory_or_a_folder_elsewhere_is_not_believed(pack, tmp_path):
    function = importlib.import_module("pack.nodes").through_init
    first = remembering(function, tmp_path)
    with sqlite3.connect(tmp_path / "cache.sqlite") as database:
        (count,) = database.execute("SELECT count(*) FROM results").fetchone()
        database.execute("UPDATE results SET result = replace(result, 'pack.units', 'pack.other')")
    assert count == 1
    assert remembering(function, tmp_path) == first
    (tmp_path / "elsewhere").mkdir()
    (pack / "inner").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "cache.sqlite").unlink()
    assert remembering(function, tmp_path) == first
    with sqlite3.connect(tmp_path / "cache.sqlite") as database:
        assert database.execute("SELECT count(*) FROM results").fetchone() == (0,)


def test_an_edit_while_the_code_is_read_is_not_remembered(pack, tmp_path):
    function = importlib.import_module("pack.nodes").through_init
    with Hashes(tmp_path / "cache.sqlite") as cache:
        hasher = CodeHasher(cache=cache)
        hasher.hash(function)
        (pack / "units.py").write_text("SCALE = 3.0\n")
        hasher.remember()
    with sqlite3.connect(tmp_path / "cache.sqlite") as database:
        assert database.execute("SELECT count(*) FROM results").fetchone() == (0,)


def test_no_syntax_tree_outlives_the_hashes(pack):
    """They would fill memory and slow every pass of the garbage collector while a stage trains."""
    assert reached("through_init")[0]
    assert not [item for item in gc.get_objects() if isinstance(item, Statement)]


def test_what_never_changes_a_result_is_left_out(pack, monkeypatch):
    monkeypatch.setattr(code_module, "NEUTRAL", ("pack.shapes:Circle",))
    assert reached("through_init")[0] == {"pack.shapes:area"}
    monkeypatch.setattr(code_module, "NEUTRAL", ("pack.shapes",))
    assert reached("through_init")[0] == set()


def test_bound_arguments_count(pack):
    function = importlib.import_module("pack.nodes").recursive
    one, two = (CodeHasher().hash(functools.partial(function, n))[0] for n in (1, 2))
    assert one != two


def test_a_function_without_a_name_is_refused(pack):
    nodes = importlib.import_module("pack.nodes")
    with pytest.raises(ValueError, match="defined at the top of its module"):
        CodeHasher().hash(nodes.outer())


def test_broken_code_is_named(pack):
    nodes = importlib.import_module("pack.nodes")
    (pack / "shapes.py").write_text("def area(:\n")
    with pytest.raises(ValueError, match=r"expected valid Python in .*shapes.py"):
        CodeHasher().hash(nodes.through_init)


def test_a_function_of_a_notebook_counts_by_its_own_source():
    scope: dict = {"__name__": "__main__"}
    hashes = []
    for text in ("def f(x): return x + 1", "def f(x): return x + 2"):
        exec(text, scope)
        hashes.append(CodeHasher().hash(scope["f"])[0])
    assert hashes[0] != hashes[1]
