from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from twisted.plugin import IPlugin, getPlugins
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pushserver.config.loader import load
from pushserver.config.settings import Source
from pushserver.errors import InvalidConfig
from pushserver.sources.engine.environment import Plan
from pushserver.sources.functions.adapt import adapt
from pushserver.sources.interface import ISource, ISourceType
from pushserver.sources.registry import BuiltIn, SourceTypes, make
from tests.e2e.server import CHECKOUT
from tests.unit.fakes.web import Trouble

BUILT_IN = ["command", "cron", "feed", "poll", "random", "sse", "tail", "webhook"]


@dataclass(frozen=True)
class Options:
    size: int = 5


@implementer(IPlugin, ISourceType)
class Kind:
    """A type of somebody else's."""

    options: type = Options
    extra = ""

    def __init__(self, name: Any, made: Any = None):
        self.name = name
        self.made = made or adapt(lambda: 1, 1.0, thread=False)
        self.seen: list[Any] = []

    def make(self, options: Any) -> Any:
        self.seen.append(options)
        if options.size > 9:
            raise ValueError(f"size: expected 9 at most, got {options.size}")
        return self.made


class TestTheTypes:
    def test_are_those_that_are_installed(self) -> None:
        types = SourceTypes()
        assert [name for name in types if name in BUILT_IN] == BUILT_IN
        assert len(types) >= len(BUILT_IN)
        assert "rss" not in types

    @pytest.mark.parametrize("name", BUILT_IN)
    def test_that_are_built_in_keep_the_interface(self, name: str) -> None:
        kind = SourceTypes()[name]
        verifyObject(ISourceType, kind)
        assert kind.name == name

    def test_need_an_extra_exactly_if_setup_has_it(self) -> None:
        extras = re.search(
            r"extras_require=\{(.*?)\n    \}", (CHECKOUT / "setup.py").read_text(), re.S
        )
        assert extras is not None
        named = set(re.findall(r'"(\w+)": \[', extras[1]))
        assert {kind.extra for kind in SourceTypes().values()} - {""} <= named

    def test_are_looked_for_when_one_is_asked_for(self) -> None:
        def found() -> Iterator[Kind]:
            asked.append(1)
            yield Kind("x")

        asked: list[int] = []
        types = SourceTypes(found())
        assert asked == []
        assert list(types) == ["x"]
        assert (len(types), asked) == (1, [1])

    def test_that_are_there_twice_are_the_first_and_ours_before_all(self, trouble: Trouble) -> None:
        one, two = Kind("x"), Kind("x")
        ours = BuiltIn("y", "nowhere.Y")
        types = SourceTypes([one, two, Kind("y"), ours, Kind("z"), Kind("y")])
        assert types["x"] is one
        assert types["y"] is ours
        assert list(types) == ["x", "y", "z"]
        assert [re.sub(r"<.*>", "", text) for text in trouble.take()] == [
            " is a second type x; it is ignored",
            "the type y of  is ignored: it is built in",
            "the type y of  is ignored: it is built in",
        ]

    @pytest.mark.parametrize("name", [None, "", 5])
    def test_without_a_name_are_left_out(self, trouble: Trouble, name: object) -> None:
        assert list(SourceTypes([Kind(name), Kind("x")])) == ["x"]
        assert "without a name" in trouble.take()[0]


class TestATypeThatIsBuiltIn:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where a module may be put; it is forgotten afterwards."""
        monkeypatch.syspath_prepend(str(tmp_path))
        for name in ("lazy_one", "lazy_two"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return tmp_path

    def test_is_not_imported_before_it_is_asked_for(self, folder: Path) -> None:
        kind = BuiltIn("x", "lazy_one.X")
        assert (kind.name, kind.extra) == ("x", "")
        assert "lazy_one" not in sys.modules
        (folder / "lazy_one.py").write_text("class X:\n    options = int\n    make = str\n")
        assert kind.options is int
        assert kind.make(5) == "5"

    def test_whose_library_is_missing_says_how_to_get_it(self, folder: Path) -> None:
        (folder / "lazy_one.py").write_text("import no_such_library.part\n")
        kind = BuiltIn("x", "lazy_one.X", "ex")
        told = "x needs the library no_such_library.*: pip install 'pushserver[ex]'"
        for use in (lambda: kind.options, lambda: kind.make(1)):
            with pytest.raises(
                ValueError, match=re.escape("pip install 'pushserver[ex]'")
            ) as caught:
                use()
            assert re.fullmatch(told.replace("[", r"\["), str(caught.value))

    def test_may_look_for_its_library_when_it_is_made(self, folder: Path) -> None:
        text = (
            "class X:\n    options = int\n    def make(options):\n        import no_such_library\n"
        )
        (folder / "lazy_one.py").write_text(text)
        kind = BuiltIn("x", "lazy_one.X", "ex")
        assert kind.options is int
        with pytest.raises(ValueError, match="x needs the library no_such_library"):
            kind.make(1)

    def test_that_is_broken_is_not_taken_for_that(self, folder: Path) -> None:
        (folder / "lazy_one.py").write_text("import pushserver.no_such_module\n")
        with pytest.raises(ModuleNotFoundError):
            BuiltIn("x", "lazy_one.X", "ex").make(1)
        (folder / "lazy_two.py").write_text("import no_such_library\n")
        with pytest.raises(ModuleNotFoundError):
            BuiltIn("x", "lazy_two.X").make(1)

    def test_does_not_hide_the_others(self, folder: Path) -> None:
        (folder / "lazy_one.py").write_text("import no_such_library\n")
        types = SourceTypes([BuiltIn("x", "lazy_one.X", "ex"), Kind("y")])
        text = "[sources.s]\nchannel = 'c'\ntype = "
        assert list(load(f"{text}'y'", "f", {}, types).sources) == ["s"]
        with pytest.raises(InvalidConfig) as caught:
            load(f"{text}'x'", "f", {}, types)
        assert str(caught.value) == (
            "f: sources.s.type: x needs the library no_such_library: pip install 'pushserver[ex]'"
        )


class TestMaking:
    def test_gives_the_type_its_options_and_the_runner_the_rest(self) -> None:
        kind = Kind("k")
        table = Source("k", "c", "e", True, 1.0, 2.0, 3.0, 4.0, {"size": 7})
        made, plan = make("n", table, {"k": kind})
        assert made is kind.made
        assert kind.seen == [Options(7)]
        assert plan == Plan(**dataclasses.asdict(table), name="n")

    @pytest.mark.parametrize(
        ("table", "problem"),
        [
            (Source("x", "c"), "x is not a type of sources, expected one of k"),
            (Source("k", "c", options={"size": 10}), "size: expected 9 at most, got 10"),
            (Source("l", "c"), "the type l made 5, expected an ISource"),
        ],
    )
    def test_of_what_cannot_be_made_says_what_is_wrong(self, table: Source, problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            make("n", table, SourceTypes([Kind("k"), Kind("l", 5)]))


def test_every_type_can_be_made_with_what_must_be_set() -> None:
    for kind in getPlugins(ISourceType):
        if kind.name == "random":
            assert ISource.providedBy(kind.make(kind.options()))
