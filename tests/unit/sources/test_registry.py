from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pushserver.config.loader import load
from pushserver.config.settings import Source
from pushserver.errors import InvalidConfig
from pushserver.sources.engine.environment import Plan
from pushserver.sources.functions.adapt import adapt
from pushserver.sources.interface import ISourceType
from pushserver.sources.registry import BuiltIn, SourceTypes, make
from tests.e2e.server import CHECKOUT
from tests.unit.fakes.web import Trouble

BUILT_IN = ["command", "cron", "feed", "poll", "random", "sse", "tail", "webhook"]


@dataclass(frozen=True)
class Options:
    size: int = 5


@implementer(IPlugin, ISourceType)
class Kind:
    """A type of a third party."""

    options: type = Options
    extra = ""

    def __init__(self, name: Any, source: Any = None):
        self.name = name
        self.source = source or adapt(lambda: 1, 1.0, thread=False)
        self.seen: list[Any] = []

    def make(self, options: Any) -> Any:
        self.seen.append(options)
        if options.size > 9:
            raise ValueError(f"size: expected 9 at most, got {options.size}")
        return self.source


class TestSourceTypes:
    def test_installed_types_are_found(self) -> None:
        types = SourceTypes()
        assert [name for name in types if name in BUILT_IN] == BUILT_IN
        assert len(types) >= len(BUILT_IN)
        assert "rss" not in types

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_built_in_type_provides_isourcetype(self, name: str) -> None:
        kind = SourceTypes()[name]
        verifyObject(ISourceType, kind)
        assert kind.name == name

    def test_extras_are_those_of_setup(self) -> None:
        extras = re.search(
            r"extras_require=\{(.*?)\n    \}", (CHECKOUT / "setup.py").read_text(), re.S
        )
        assert extras is not None
        named = set(re.findall(r'"(\w+)": \[', extras[1]))
        assert {kind.extra for kind in SourceTypes().values()} - {""} <= named

    def test_plugins_are_searched_once_at_the_first_use(self) -> None:
        def plugins() -> Iterator[Kind]:
            asked.append(1)
            yield Kind("x")

        asked: list[int] = []
        types = SourceTypes(plugins())
        assert asked == []
        assert list(types) == ["x"]
        assert (len(types), asked) == (1, [1])

    def test_first_of_two_types_counts_but_a_built_in_one_always(self, trouble: Trouble) -> None:
        one, two = Kind("x"), Kind("x")
        built_in = BuiltIn("y", "nowhere.Y")
        types = SourceTypes([one, two, Kind("y"), built_in, Kind("z"), Kind("y")])
        assert types["x"] is one
        assert types["y"] is built_in
        assert list(types) == ["x", "y", "z"]
        assert [re.sub(r"<.*\.(\w+) .*>", r"\1", text) for text in trouble.take()] == [
            "Kind is a second type x; it is ignored",
            "Kind is ignored: the type y is built in",
            "Kind is ignored: the type y is built in",
        ]

    @pytest.mark.parametrize("name", [None, "", 5])
    def test_type_without_a_name_is_ignored(self, trouble: Trouble, name: object) -> None:
        assert list(SourceTypes([Kind(name), Kind("x")])) == ["x"]
        assert "without a name" in trouble.take()[0]


class TestBuiltIn:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A folder for modules, which are removed from sys.modules afterwards."""
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in ("lazy_one", "lazy_two"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return tmp_path

    def test_module_is_imported_at_the_first_use(self, folder: Path) -> None:
        kind = BuiltIn("x", "lazy_one.X")
        assert (kind.name, kind.extra) == ("x", "")
        assert "lazy_one" not in sys.modules
        (folder / "lazy_one.py").write_text("class X:\n    options = int\n    make = str\n")
        assert kind.options is int
        assert kind.make(5) == "5"

    def test_missing_library_is_named_with_its_installation(self, folder: Path) -> None:
        (folder / "lazy_one.py").write_text("import no_such_library.part\n")
        kind = BuiltIn("x", "lazy_one.X", "ex")
        message = "x needs the library no_such_library.*: pip install 'pushserver[ex]'"
        for use in (lambda: kind.options, lambda: kind.make(1)):
            with pytest.raises(
                ValueError, match=re.escape("pip install 'pushserver[ex]'")
            ) as caught:
                use()
            assert re.fullmatch(message.replace("[", r"\["), str(caught.value))

    def test_library_may_be_missing_in_make(self, folder: Path) -> None:
        text = (
            "class X:\n    options = int\n    def make(options):\n        import no_such_library\n"
        )
        (folder / "lazy_one.py").write_text(text)
        kind = BuiltIn("x", "lazy_one.X", "ex")
        assert kind.options is int
        with pytest.raises(ValueError, match="x needs the library no_such_library"):
            kind.make(1)

    def test_other_missing_modules_are_raised(self, folder: Path) -> None:
        (folder / "lazy_one.py").write_text("import pushserver.no_such_module\n")
        with pytest.raises(ModuleNotFoundError):
            BuiltIn("x", "lazy_one.X", "ex").make(1)
        (folder / "lazy_two.py").write_text("import no_such_library\n")
        with pytest.raises(ModuleNotFoundError):
            BuiltIn("x", "lazy_two.X").make(1)

    def test_missing_library_does_not_disable_other_types(self, folder: Path) -> None:
        (folder / "lazy_one.py").write_text("import no_such_library\n")
        types = SourceTypes([BuiltIn("x", "lazy_one.X", "ex"), Kind("y")])
        text = "[sources.s]\nchannel = 'c'\ntype = "
        assert list(load(f"{text}'y'", "f", {}, types).sources) == ["s"]
        with pytest.raises(InvalidConfig) as caught:
            load(f"{text}'x'", "f", {}, types)
        assert str(caught.value) == (
            "f: sources.s.type: x needs the library no_such_library: pip install 'pushserver[ex]'"
        )


class TestMake:
    def test_type_gets_its_options_and_the_plan_the_settings(self) -> None:
        kind = Kind("k")
        settings = Source("k", "c", "e", True, 1.0, 2.0, 3.0, 4.0, {"size": 7})
        instance, plan = make("n", settings, {"k": kind})
        assert instance is kind.source
        assert kind.seen == [Options(7)]
        assert plan == Plan(**dataclasses.asdict(settings), name="n")

    @pytest.mark.parametrize(
        ("table", "problem"),
        [
            (Source("x", "c"), "x is not a type of sources, expected one of k"),
            (Source("k", "c", options={"size": 10}), "size: expected 9 at most, got 10"),
            (Source("l", "c"), "the type l made an object of int, expected an ISource"),
        ],
    )
    def test_invalid_table_raises_value_error(self, table: Source, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            make("n", table, SourceTypes([Kind("k"), Kind("l", 5)]))
