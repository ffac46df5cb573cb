"""The floors of the package: each module imports only downwards."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pushserver"
NETWORK = frozenset({"autobahn", "jinja2", "twisted", "zope"})


@dataclass(frozen=True)
class Floor:
    """Modules that may import from the floors below theirs, and what else they may."""

    modules: frozenset[str]
    """Names under the package; a sub-package's name stands for all that is in it."""
    libraries: frozenset[str] = frozenset()
    """What they may import beside the standard library."""
    one_another: bool = True


def floor(modules: str, libraries: Iterable[str] = (), one_another: bool = True) -> Floor:
    """A Floor from a list of names separated by blanks."""
    return Floor(frozenset(modules.split()), frozenset(libraries), one_another)


FLOORS = {
    "0: values and rules": floor(
        "accept access channel collector config cursor environment fork formats frames history"
        " errors idempotency limits memory metrics origin payload schema startup tables usercode wire",
        {"msgspec"},
    ),
    "1: the conversation": floor(
        "audience broker commands conversation fanout handlers hub node peers poll presence"
        " replay session stream",
        {"msgspec"},
    ),
    "2: what doors share": floor(
        "answers compression coroutines entrance gate hosts lean mount outlet owner pipeline"
        " publishing quiet reading site sqlite steady store websocket",
        {"msgspec"} | NETWORK,
    ),
    "2: sources": floor(
        "sources",
        {"cronsim", "feedparser", "msgspec"} | NETWORK,
    ),
    "2: doors": floor(
        "api channels connection files hooks pages status streaming sync turns upgrade",
        {"msgspec"} | NETWORK,
        one_another=False,
    ),
    "3: where all is put together": floor(
        "app application assembly calls client events faults listening loading notify published"
        " rehearsal reloading running server service signals testing",
        {"msgspec"} | NETWORK,
    ),
    "4: the face": floor(
        "__init__ cli opener publisher",
    ),
}
"""From the ground up. A new module gets its place here when it is written."""


@dataclass(frozen=True)
class Import:
    """One import, wherever in the module it stands."""

    line: int
    target: str
    """Dotted; with the imported name, which may be a module or not."""


def imports(source: str, package: str) -> Iterator[Import]:
    """All imports of a module in `package`, those in functions and for types included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(node.lineno, name.name)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package.split(".")[: -node.level + 1 or None]) if node.level else ""
            for name in node.names:
                yield Import(node.lineno, ".".join(filter(None, [start, node.module, name.name])))


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: all but the insides of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(node)


def listed_as(module: str) -> str | None:
    """The entry of FLOORS that a dotted name under the package belongs to."""
    while module:
        if any(module in floor.modules for floor in FLOORS.values()):
            return module
        module = module.rpartition(".")[0]
    return None


def height(entry: str) -> int:
    """How many floors are below that of an entry."""
    return next(n for n, floor in enumerate(FLOORS.values()) if entry in floor.modules)


def own_target(target: str) -> str | None:
    """The entry that an import of ours reaches; None for the version, which anybody may know."""
    name = target.removeprefix("pushserver").removeprefix(".")
    return None if name == "__version__" else listed_as(name) or "__init__"


def complaints(entry: str, source: str, package: str = "pushserver") -> list[str]:
    """What is wrong with the imports of a module that FLOORS lists as `entry`."""
    here = height(entry)
    floor = list(FLOORS.values())[here]
    found = []
    for item in imports(source, package):
        top = item.target.partition(".")[0]
        if top == "pushserver":
            target = own_target(item.target)
            if target is None or target == entry:
                continue
            there = height(target)
            if there > here or (there == here and not floor.one_another):
                found.append(f"line {item.line}: {entry} must not import {target}")
        elif top not in sys.stdlib_module_names and top not in floor.libraries:
            found.append(f"line {item.line}: {entry} must not import {item.target}")
    return found


def reactor_imports(source: str) -> list[int]:
    """The lines that fetch the global reactor while the module is imported."""
    return [
        node.lineno
        for node in at_import(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(i.target == "twisted.internet.reactor" for i in imports(ast.unparse(node), ""))
    ]


def module_name(path: Path) -> str:
    """The dotted name under the package: `sse`, `sources.random`, `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def containing_package(path: Path) -> str:
    return ".".join(["pushserver", *path.relative_to(PACKAGE).parts[:-1]])


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_only_what_its_floor_may(module: str) -> None:
    entry = listed_as(module)
    assert entry is not None, f"{module} has no place in FLOORS (tests/test_floors.py) yet"
    path = MODULES[module]
    assert complaints(entry, path.read_text("utf-8"), containing_package(path)) == []


@pytest.mark.parametrize("module", MODULES)
def test_no_module_fetches_the_reactor_when_it_is_imported(module: str) -> None:
    assert reactor_imports(MODULES[module].read_text("utf-8")) == []


def test_every_module_has_one_place_and_every_place_a_module() -> None:
    listed = [name for floor in FLOORS.values() for name in floor.modules]
    assert len(listed) == len(set(listed))
    assert set(listed) <= set(MODULES)


class TestTheRules:
    """On a building of its own, so that they hold whatever stands in FLOORS above."""

    @pytest.fixture(autouse=True)
    def _building(self, monkeypatch: pytest.MonkeyPatch) -> None:
        floors = {
            "ground": floor("stone earth", {"msgspec"}),
            "doors": floor("front back garage", {"msgspec", "twisted"}, one_another=False),
            "roof": floor("chimney", {"msgspec", "twisted"}),
            "face": floor("__init__"),
        }
        monkeypatch.setitem(globals(), "FLOORS", floors)

    @pytest.mark.parametrize(
        ("entry", "source"),
        [
            ("stone", "import json\nimport msgspec\nfrom pushserver.earth import worm"),
            ("stone", "from pushserver import earth, __version__"),
            ("front", "from twisted.web.server import Site\nfrom pushserver import stone"),
            ("chimney", "from pushserver.front import Door\nimport pushserver.back"),
            ("__init__", "def __getattr__(name):\n    from pushserver.chimney import Smoke"),
        ],
    )
    def test_what_is_below_may_be_imported(self, entry: str, source: str) -> None:
        assert complaints(entry, source) == []

    @pytest.mark.parametrize(
        ("entry", "source", "target"),
        [
            ("stone", "from twisted.python import log", "twisted.python.log"),
            ("stone", "import pushserver.front", "front"),
            ("stone", "from pushserver import chimney", "chimney"),
            ("stone", "from pushserver import PushServer", "__init__"),
            ("stone", "from .front import Door", "front"),
            ("stone", "from . import front", "front"),
            ("stone", "def f():\n    from pushserver.front import Door", "front"),
            ("front", "from pushserver.back import Door", "back"),
            ("front", "from pushserver import chimney", "chimney"),
            ("front", "import click", "click"),
        ],
    )
    def test_all_else_is_complained_about(self, entry: str, source: str, target: str) -> None:
        line = source.count("\n") + 1
        assert complaints(entry, source) == [f"line {line}: {entry} must not import {target}"]

    def test_a_package_is_one_place_with_all_that_is_in_it(self) -> None:
        inside = "pushserver.garage"
        assert listed_as("garage.lift") == "garage"
        assert complaints("garage", "from .lift import Lift", inside) == []
        assert complaints("garage", "from pushserver.garage.lift import Lift", inside) == []
        assert complaints("garage", "from ..back import Door", inside) == [
            "line 1: garage must not import back"
        ]

    @pytest.mark.parametrize(
        ("source", "lines"),
        [
            ("from twisted.internet import reactor", [1]),
            ("import twisted.internet.reactor as r", [1]),
            ("class Clock:\n    from twisted.internet import defer, reactor", [2]),
            ("def run():\n    from twisted.internet import reactor", []),
            ("from twisted.internet import defer", []),
        ],
    )
    def test_the_global_reactor_is_for_functions_only(self, source: str, lines: list[int]) -> None:
        assert reactor_imports(source) == lines
