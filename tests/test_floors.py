"""The folders of the package: each imports only from itself and from earlier ones."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pushserver"

FOLDERS = (
    "errors",
    "usercode",
    "channels",
    "protocols",
    "auth",
    "config",
    "diagnosis",
    "hub",
    "sessions",
    "cluster",
    "redis",
    "store",
    "web",
    "wsgi",
    "transports",
    "sources",
    "resources",
    "app",
    "server",
    "testing",
    "flask",
    "command_line",
)
"""From the ground up; `errors` is a module. The table of docs/architecture.md has the same rows."""

FACE = {"__init__", "__main__", "api_call", "cli", "opener", "publisher", "reading"}
SHIMS = {"channel", "idempotency", "payload", "startup"}
"""Old public places of names. Like FACE, they may import from all folders."""
SHARED = {"api_call", "opener"}
"""Those of FACE that `command_line` imports too; the other folders import none."""

NETWORK = {"autobahn", "jinja2", "twisted", "zope"}
WITHOUT_NETWORK = set(FOLDERS[: FOLDERS.index("store")]) - {"cluster", "redis", "usercode"}


@dataclass(frozen=True)
class Import:
    """One import, at the top of a module or inside."""

    line: int
    target: str
    """Dotted; the last part is the imported name, which may be a module."""


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
    """The nodes that run when the module is imported: all except the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(node)


def folder_of(name: str) -> str:
    """The first part of a dotted name under the package; `face` for a name in no folder."""
    first = name.partition(".")[0]
    return first if first in FOLDERS else "face"


def libraries(folder: str) -> set[str]:
    """The libraries that a folder may import beside the standard library."""
    if folder in ("face", "command_line"):
        return set()
    more = {
        "flask": {"flask", "werkzeug"},
        "auth": {"cryptography", "idna", "jwt"},
        "resources": {"prometheus_client"},
        "redis": {"hiredis", "txredisapi"},
        "server": {"prometheus_client"},
        "sources": {"cronsim", "feedparser"},
    }
    return {"msgspec"} | more.get(folder, set()) | (set() if folder in WITHOUT_NETWORK else NETWORK)


def may_import(module: str, name: str) -> bool:
    """Whether a module may import a name of ours; both are dotted, under the package."""
    folder, target = folder_of(module), folder_of(name)
    if folder == "command_line" and name.partition(".")[0] in SHARED:
        return True
    return folder in ("face", target) or target in FOLDERS[: FOLDERS.index(folder)]


def complaints(module: str, source: str, package: str = "pushserver") -> list[str]:
    """The forbidden imports of a module with this dotted name under the package."""
    lines = []
    for item in imports(source, package):
        top, _, name = item.target.partition(".")
        if top == "pushserver":
            wrong = name != "__version__" and not may_import(module, name)
        else:
            wrong = top not in sys.stdlib_module_names | libraries(folder_of(module))
        if wrong:
            lines.append(f"line {item.line}: {module} must not import {item.target}")
    return lines


def reactor_imports(source: str) -> list[int]:
    """The lines that import the global reactor when the module is imported."""
    return [
        node.lineno
        for node in at_import(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(i.target == "twisted.internet.reactor" for i in imports(ast.unparse(node), ""))
    ]


def module_name(path: Path) -> str:
    """The dotted name under the package: `web.site`, `sources.types.random`, `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def containing_package(path: Path) -> str:
    return ".".join(["pushserver", *path.relative_to(PACKAGE).parts[:-1]])


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_its_folder_may(module: str) -> None:
    path = MODULES[module]
    assert complaints(module, path.read_text("utf-8"), containing_package(path)) == []


def imported(targets: Iterable[str], modules: Collection[str]) -> set[str]:
    """The modules of ours that dotted targets name: of `pushserver.hub.hub.Hub` it is `hub.hub`."""
    names = set()
    for target in targets:
        # The library `flask` is not our folder of that name.
        name = target.removeprefix("pushserver.") if target.startswith("pushserver.") else ""
        while name and name not in modules:
            name = name.rpartition(".")[0]
        names.add(name)
    return names - {""}


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other, from the first to itself; empty if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


def test_no_modules_import_each_other() -> None:
    graph = {}
    for module, path in MODULES.items():
        items = imports(path.read_text("utf-8"), containing_package(path))
        graph[module] = imported((item.target for item in items), MODULES) - {module}
    assert circle(graph) == []


@pytest.mark.parametrize("module", MODULES)
def test_module_does_not_import_the_reactor_at_its_top(module: str) -> None:
    assert reactor_imports(MODULES[module].read_text("utf-8")) == []


def test_list_has_all_folders() -> None:
    tops = {module.partition(".")[0] for module in MODULES}
    assert tops == {*FOLDERS, *FACE, *SHIMS}
    assert {name for name in tops if (PACKAGE / name).is_dir()} == {*FOLDERS} - {"errors"}


def test_table_of_the_documentation_has_a_row_for_each_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| `([^`]*)` \|", text, re.MULTILINE)
    assert rows == ["errors.py", *(f"{name}/" for name in FOLDERS[1:])]


def test_each_row_of_the_table_names_the_modules_of_its_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for folder, cell in re.findall(r"^\| `([a-z_]+)/` \| (.*) \|$", text, re.MULTILINE):
        # The built-in types of sources are in docs/sources.md.
        paths = [path for path in (PACKAGE / folder).rglob("*.py") if "types" not in path.parts]
        modules = {path.stem for path in paths} - {"__init__"}
        assert modules <= set(re.findall(r"`([a-z_]+)`", cell)), folder
        assert "|" not in cell, f"the row of {folder} has a third column"


def test_documentation_names_the_modules_in_no_folder() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    [paragraph] = re.findall(r"^In no folder: .*?\n\n", text, re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([a-z_]+)`", paragraph))
    assert (FACE | SHIMS) - named == {"__init__", "__main__"}


class TestTheRules:
    """Allowed and forbidden imports."""

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            (
                "hub.hub",
                "import json\nimport msgspec\nfrom pushserver.channels.channel import Draft",
            ),
            ("hub.hub", "from pushserver.hub import audience"),
            ("hub.hub", "from pushserver import errors, __version__"),
            ("usercode.worker", "from twisted.python import log"),
            ("sources.types.cron", "import cronsim\nfrom pushserver.sources.interface import Feed"),
            ("__init__", "def f():\n    from pushserver.testing import TestServer"),
            ("command_line.listing", "from pushserver.api_call import call"),
            ("cli", "from pushserver.command_line.listing import list_channels"),
        ],
    )
    def test_earlier_folders_may_be_imported(self, module: str, source: str) -> None:
        assert complaints(module, source) == []

    @pytest.mark.parametrize(
        ("module", "source", "target"),
        [
            ("hub.hub", "from twisted.python import log", "twisted.python.log"),
            ("hub.hub", "import pushserver.web.site", "pushserver.web.site"),
            ("hub.hub", "from pushserver import sessions", "pushserver.sessions"),
            ("hub.hub", "from pushserver import PushServer", "pushserver.PushServer"),
            ("hub.hub", "from pushserver.payload import P", "pushserver.payload.P"),
            ("hub.hub", "def f():\n    from pushserver.app import app", "pushserver.app.app"),
            ("hub.hub", "if TYPE_CHECKING:\n    import pushserver.app", "pushserver.app"),
            ("app.client", "from pushserver.server import options", "pushserver.server.options"),
            ("app.app", "from pushserver.server import build", "pushserver.server.build"),
            ("web.site", "import click", "click"),
            ("web.site", "import feedparser", "feedparser"),
            ("publisher", "import msgspec", "msgspec"),
            ("command_line.listing", "import msgspec", "msgspec"),
            ("command_line.listing", "from pushserver import publish", "pushserver.publish"),
            ("command_line.listing", "from pushserver.cli import main", "pushserver.cli.main"),
            ("server.build", "import pushserver.command_line", "pushserver.command_line"),
            ("server.build", "import pushserver.opener", "pushserver.opener"),
        ],
    )
    def test_other_imports_are_complaints(self, module: str, source: str, target: str) -> None:
        line = source.count("\n") + 1
        assert complaints(module, source) == [f"line {line}: {module} must not import {target}"]

    def test_a_circle_of_imports_is_found(self) -> None:
        assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
        assert sorted({*circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})}) == ["b", "c"]
        targets = ["pushserver.hub.hub.Hub", "pushserver.hub.Metrics", "pushserver", "hub", "json"]
        assert imported(targets, {"hub", "hub.hub"}) == {"hub", "hub.hub"}

    def test_relative_imports_are_followed(self) -> None:
        assert complaints("hub.hub", "from .audience import Group", "pushserver.hub") == []
        assert complaints("hub.hub", "from ..web import site", "pushserver.hub") == [
            "line 1: hub.hub must not import pushserver.web.site"
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
    def test_functions_may_import_the_reactor(self, source: str, lines: list[int]) -> None:
        assert reactor_imports(source) == lines
