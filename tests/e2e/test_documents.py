"""The documents are true: their examples run, and their tables match the code."""

from __future__ import annotations

import json
import re
import sys
import time
import tomllib
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, fields
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import pytest
from playwright.sync_api import ConsoleMessage
from zope.interface.verify import verifyObject

from pushserver.channels.channel import ChannelOptions
from pushserver.config import settings
from pushserver.config.limits import Limits
from pushserver.config.loader import load
from pushserver.config.settings import Config
from pushserver.protocols import centrifuge
from pushserver.resources import api_methods
from pushserver.sources.engine.environment import Plan
from pushserver.sources.engine.runner import Runner as SourceRunner
from pushserver.sources.engine.runner import Status
from pushserver.sources.interface import ISourceType
from pushserver.sources.registry import SourceTypes
from tests.e2e.blocks import Line, block_with, sections, sections_of
from tests.e2e.documents import EPOCH, Names, Runner, examples, write
from tests.e2e.patience import PATIENCE
from tests.e2e.server import CHECKOUT, Server, running
from tests.e2e.visits import Visits
from tests.unit.fakes.source_tools import SourceBench

PROTOCOLS = (CHECKOUT / "docs" / "protocols.md").read_text()
CONFIGURATION = (CHECKOUT / "docs" / "configuration.md").read_text()
SOURCES = (CHECKOUT / "docs" / "sources.md").read_text()
OF_SOURCES = [block for blocks in sections_of("docs/sources.md").values() for block in blocks]
TYPES = SourceTypes()
EXAMPLES = examples(sections_of("docs/protocols.md"))
[CONFIGURED] = EXAMPLES.pop("The examples")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the configuration that the examples are for."""
    folder = tmp_path_factory.mktemp("documents")
    with running(Server(folder, "--config", str(write(CONFIGURED, folder)))) as server:
        yield server


class Console:
    """Runs scripts in a page of the server, and yields their log messages."""

    def __init__(self, visits: Visits):
        self._visits = visits

    def run(self, script: str) -> Generator[str, None, None]:
        page = self._visits.open("channels/elsewhere")
        logged: list[ConsoleMessage] = []
        page.on("console", lambda message: logged.append(message))
        try:
            page.evaluate(f"() => {{ {script} }}")
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                while logged:
                    yield logged.pop(0).text
                page.wait_for_timeout(20)
        finally:
            page.close()


@pytest.mark.parametrize("section", EXAMPLES)
def test_the_examples_of_the_protocols(
    server: Server, visits: Visits, tmp_path: Path, section: str
) -> None:
    epoch = json.loads(server.get("channels/numbers").body)["epoch"]
    address = f"127.0.0.1:{server.port}"
    runner = Runner(Names(epoch), address, tmp_path, Console(visits).run)
    for block in EXAMPLES[section]:
        runner.run(block)


def test_the_examples_of_socket_io(server: Server, tmp_path: Path) -> None:
    runner = Runner(Names(EPOCH), f"127.0.0.1:{server.port}", tmp_path, no_browser)
    runner.run(block_with("docs/socketio.md", "EIO=3&transport=polling"))


def no_browser(script: str) -> Generator[str, None, None]:
    raise AssertionError("nothing here is run in a browser")


def test_the_examples_of_the_configuration(tmp_path: Path) -> None:
    runner = Runner(Names(""), "", tmp_path, no_browser)
    for blocks in examples(sections_of("docs/configuration.md")).values():
        for block in blocks:
            runner.run(block)


def test_the_default_sources_are_those_of_the_document() -> None:
    file = block_with("docs/configuration.md", "# numbers.toml")
    assert load(file.text, "", {}, TYPES) == Config()


SECTIONS: dict[str, type] = {
    "Server": settings.Server,
    "Auth": settings.Auth,
    "Keys": settings.KeySettings,
    "Token keys": settings.TokenKeySettings,
    "Store": settings.Store,
    "Socket.IO": settings.SocketIO,
    "Channels": ChannelOptions,
    "Limits": Limits,
}


def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, without their first lines."""
    _, _, text = document.partition(f"\n## {heading}\n")
    text, _, _ = text.partition("\n## ")
    found = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row] for row in found]
    rules = [at for at, row in enumerate(cells) if set(row[0]) <= {"-", " "}]
    return [row for at, row in enumerate(cells) if not {at, at + 1} & set(rules)]


def default(kind: type, key: str) -> object:
    """The default of a key as the document shows it."""
    [field] = [field for field in fields(kind) if field.name == key]
    if field.default is not MISSING:
        return field.default
    return "must be set" if field.default_factory is MISSING else field.default_factory()


def keys(kind: type) -> list[str]:
    """The keys of a table; a source has those of its type in place of `options`."""
    return [
        field.name for field in fields(kind) if (kind, field.name) != (settings.Source, "options")
    ]


def bounds(kind: type, key: str) -> str | None:
    """The range of a number as the document shows it; None for what is no number."""
    hint = get_type_hints(kind, include_extras=True)[key]
    for meta in getattr(hint, "__metadata__", ()):
        if meta.gt is not None:
            return f"more than {meta.gt:g}"
        if meta.ge is not None:
            return f"{meta.ge} or more" if meta.le is None else f"{meta.ge} to {meta.le}"
    return None


def check_table(kind: type, table: list[list[str]]) -> None:
    assert [row[0] for row in table] == [f"`{key}`" for key in keys(kind)]
    for cell, shown, values, meaning in table:
        key = cell.strip("`")
        value = default(kind, key)
        value = list(value) if isinstance(value, tuple) else value
        if value == "must be set":
            assert shown == value
        elif value is None:
            assert not shown.startswith("`")
        else:
            read = tomllib.loads(f"value = {shown.strip('`')}")["value"]
            assert (type(read), read) == (type(value), value)
        assert values == (bounds(kind, key) or values), key
        assert meaning


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_key_is_there_with_its_default_and_its_range(heading: str) -> None:
    check_table(SECTIONS[heading], rows(CONFIGURATION, heading))


class TestTheDocumentOfTheSources:
    def test_has_the_keys_of_every_source(self) -> None:
        check_table(settings.Source, rows(SOURCES, "Common keys"))

    @pytest.mark.parametrize("name", TYPES)
    def test_has_every_type_with_its_keys(self, name: str) -> None:
        check_table(TYPES[name].options, rows(SOURCES, f"`{name}`"))

    def test_names_every_field_of_a_status(self) -> None:
        _, _, text = SOURCES.partition("\n### Status of a source\n")
        named = re.findall(r"^\| (`.*?`) \|", text.partition("\n## ")[0], re.MULTILINE)
        words = " ".join(named).replace(",", "").replace("`", "").split()
        assert sorted(words) == sorted(field.name for field in fields(Status))

    def test_has_examples_that_can_be_used(self) -> None:
        for block in OF_SOURCES:
            if block.language == "toml":
                assert load(block.text, "the example", {}, TYPES) != Config()

    def test_has_a_type_of_ones_own_that_works(self) -> None:
        [program] = [block for block in OF_SOURCES if block.language != "toml"]
        module = ModuleType("dice_source")
        sys.modules["dice_source"] = module
        exec(program.text, vars(module))
        kind: Any = module.dice
        verifyObject(ISourceType, kind)
        table = "[sources.s]\ntype = 'dice'\nchannel = 'c'\nsides = 2"
        assert load(table, "", {}, SourceTypes([kind])).sources["s"].options == {"sides": 2}

        def rolled() -> list[Any]:
            bench = SourceBench()
            runner = SourceRunner(
                kind.make(kind.options()), Plan("dice", "c", name="s"), bench.environment
            )
            runner.startService()
            bench.clock.pump([1.0] * 2)
            runner.stopService()
            return [data["rolled"] for data in bench.published]

        # In this thread the browsers of other tests have an event loop that runs.
        with ThreadPoolExecutor(1) as elsewhere:
            found = elsewhere.submit(rolled).result()
        assert [1 <= number <= 6 for number in found] == [True] * 3


def test_no_section_is_missing() -> None:
    named = set(re.findall(r"`\[([a-z]+)(?:\.NAME)?\]`", CONFIGURATION))
    assert named == {field.name for field in fields(Config)}


@pytest.mark.parametrize(
    ("variable", "line"),
    [pytest.param(*row, id=row[0].strip("`")) for row in rows(CONFIGURATION, "Environment")],
)
def test_a_variable_is_the_same_as_its_line(variable: str, line: str) -> None:
    name, _, value = variable.strip("`").partition("=")
    assert load("", "", {name: value}, TYPES) == load(line.strip("`"), "", {}, TYPES) != Config()


def test_every_limit_of_the_protocols_is_a_setting_with_its_default() -> None:
    table = {row[0].strip("`"): row[1] for row in rows(PROTOCOLS, "Limits")}
    assert set(table) <= {field.name for field in fields(Limits)}
    for key, shown in table.items():
        assert float(shown) == default(Limits, key)


def test_every_method_is_in_the_protocols() -> None:
    _, _, server_api = PROTOCOLS.partition("\n## Server API\n")
    titles = " ".join(re.findall(r"^### (.*)", server_api, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", titles)) == set(api_methods.METHODS)
    for method in centrifuge.METHODS:
        assert f"`{method}`" in PROTOCOLS


OTHERWISE = [
    ('{"offset":2}', '{"offset":3}'),
    ('{"a":1,"b":2}', '{"b":2,"a":1}'),
    ('{"a":1}', '{"a":1,"b":2}'),
    (f'{{"epoch":"{EPOCH}"}}', '{"epoch":"11111111"}'),
    (f'{{"id":"{EPOCH}:5"}}', '{"id":"0a0b0c0d:6"}'),
    (f'{{"id":"{EPOCH}:4"}}', '{"id":"0a0b0c0d:18"}'),
    (f'{{"id":"{EPOCH}:6"}}', '{"id":"0a0b0c0d:16"}'),
    ('{"time":1795333977.099}', '{"time":1795333977099}'),
    ('{"time":1795333977.099}', '{"time":1795333977.0991}'),
    ('{"channel":"a","offset":1}', '{"channel":"a","offset":2}'),
    ("retry: 2000", "retry: 9000"),
    ('{"client":"thEPTzSxtg4kW-wj"}', '{"client":"short"}'),
]


@pytest.mark.parametrize(("expected", "actual"), OTHERWISE)
def test_what_is_not_what_the_document_says_is_noticed(expected: str, actual: str) -> None:
    names = Names("0a0b0c0d", seqs={5: 17})
    with pytest.raises(AssertionError, match="line 7"):
        names.match(Line(7, expected), actual)


def test_values_that_differ_at_each_run_match() -> None:
    names = Names("0a0b0c0d", seqs={5: 17})
    client = "thEPTzSxtg4kW-wj"
    names.match(Line(1, f"id: {EPOCH}:9"), "id: 0a0b0c0d:20")
    names.match(Line(2, '"time":1795333977.099'), '"time":1800000000.5')
    names.match(Line(3, f'{{"client":"{client}"}}'), '{"client":"aaaaaaaaaaaaaaaa"}')
    assert names.real(f'{EPOCH} {EPOCH}:9 "{client}"') == '0a0b0c0d 0a0b0c0d:20 "aaaaaaaaaaaaaaaa"'


def test_a_block_that_cannot_run_is_an_error() -> None:
    for text in ("```json\n{}\n```", "```text\n1\n```", "```console\n$ curl x"):
        with pytest.raises(AssertionError, match="line 1"):
            examples(sections(text))
