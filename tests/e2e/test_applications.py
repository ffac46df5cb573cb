"""The documents about applications are true, and the examples work."""

from __future__ import annotations

import inspect
import re
import shlex
import sys
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from playwright.sync_api import Browser, expect

from pushserver import PushServer
from pushserver.app import handlers
from pushserver.config.loader import load
from pushserver.sources.registry import SourceTypes
from tests.e2e.blocks import block_with, sections_of
from tests.e2e.conditions import wait_until
from tests.e2e.follower import NO_ICON, Programs, run, visits_at
from tests.e2e.server import CHECKOUT, TWISTD, Server, free_port, running

with warnings.catch_warnings():
    # twisted.web.static causes this warning itself.
    warnings.simplefilter("ignore", DeprecationWarning)
    from pushserver.testing import TestServer

APPLICATIONS = CHECKOUT / "docs" / "applications.md"
PARTS = sections_of(
    "docs/applications.md",
    *("", "Sources", "Publishing", "Handlers", "Clients", "Testing"),
    *("Start and stop", "Processes", "asyncio"),
)
EXAMPLES = CHECKOUT / "examples"


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    programs = Programs(tmp_path)
    yield programs
    programs.close()


def test_the_five_lines_are_the_same_in_all_documents() -> None:
    block = block_with("README.md", "def random_number")
    tutorial = block_with("docs/tutorial.md", "def random_number")
    example = (EXAMPLES / "ticker.py").read_text("utf-8")
    assert block.text.split() == tutorial.text.split() == example.partition('"""\n\n')[2].split()


class TestTheReferenceOfApplications:
    @pytest.fixture
    def module(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        """All Python code of the document, except its other programs."""
        module = ModuleType("shop")
        monkeypatch.setitem(sys.modules, "shop", module)
        for block in chain.from_iterable(PARTS.values()):
            assert block.language == "python"
            exec(compile(block.text, "applications.md", "exec"), vars(module))
        return module

    def test_has_sources_that_publish(self, module: ModuleType) -> None:
        app: PushServer = module.app
        assert [own.plan.name for own in app.sources] == [
            "random_number",
            "walk",
            "free_space",
            "disk_is_full",
        ]
        with TestServer(app) as server:
            server.advance(2)
            assert [len(server.history(name)) for name in ("numbers", "walk")] == [2, 5]

    def test_has_one_alert_each_time_that_a_threshold_is_passed(self, module: ModuleType) -> None:
        frees = iter([50, 9, 8, 10, 7])
        vars(module)["disk_usage"] = lambda path: SimpleNamespace(free=next(frees), total=100)
        alerts = [module.disk_is_full() for _ in range(5)]
        assert alerts == [None, {"free": 9}, None, None, {"free": 7}]

    def test_has_tests_that_pass(self, module: ModuleType) -> None:
        module.test_votes_are_counted()
        module.test_nobody_votes_for_beer()
        module.test_an_order_is_published()
        module.queue.put(None)

    def test_has_every_argument_of_a_source_with_its_default(self) -> None:
        parameters = dict(inspect.signature(PushServer.source).parameters)
        del parameters["self"]
        shown = {row[0]: row[1] for row in table("argument")}
        assert list(shown) == [
            parameters["channel"].name,
            *(n for n in parameters if n != "channel"),
        ]
        for name, parameter in parameters.items():
            default = shown[name].strip("`").replace('"', "'")
            assert default in ("must be set", repr(parameter.default))

    def test_has_every_built_in_event(self) -> None:
        shown = [row[0] for row in table("event")]
        assert shown == [*handlers.ARGUMENTS, "message", "json", "any other"]
        for name, arguments, *_ in table("event"):
            if name in handlers.ARGUMENTS:
                taken = [] if arguments == "nothing" else arguments.split(",")
                assert len(taken) == len(handlers.ARGUMENTS[name])

    def test_embeds_a_server_beside_pages(
        self, browser: Browser, tmp_path: Path, programs: Programs
    ) -> None:
        program, script = sections_of("docs/applications.md", "Embedding")["Embedding"]
        port = free_port()
        (tmp_path / "together.py").write_text(program.text.replace("tcp:8080", f"tcp:{port}"))
        (tmp_path / "pages").mkdir()
        [tag] = re.findall("`(<script src=.*?</script>)`", APPLICATIONS.read_text())
        (tmp_path / "pages" / "index.html").write_text(
            f"<!doctype html><h1>-</h1>{tag}<script>{script.text}"
            'const news = client.newSubscription("news");'
            'news.on("publication", ({data}) => document.querySelector("h1").textContent = data);'
            "news.subscribe(); client.connect();</script>"
        )
        programs.start([*TWISTD, "-n", "--pidfile=", "-y", "together.py"], port)
        url = f"http://localhost:{port}/"
        visits = visits_at(browser, url)
        visits.allow(NO_ICON)
        page = visits.open()
        run(["curl", "-sS", "-d", "rye again", f"{url}push/channels/news"], tmp_path)
        expect(page.locator("h1")).to_have_text("rye again")
        visits.close()
        assert visits.problems == []


def table(first: str) -> list[list[str]]:
    """The rows of a table of the reference, found by its first title; names without backticks."""
    text = APPLICATIONS.read_text("utf-8")
    _, _, rest = text.partition(f"\n| {first} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [[row[0].strip("` "), *row[1:]] for row in cells]


class TestTheExamples:
    def test_a_library_with_its_own_thread(self, tmp_path: Path) -> None:
        with example(tmp_path, "thread.py", "--app", "thread:app") as server:
            wait_until(lambda: server.get("channels/temperature").text.count('"degrees"') > 1)

    def test_five_lines(self, tmp_path: Path) -> None:
        with example(tmp_path, "ticker.py", "--app", "ticker:app") as server:
            wait_until(lambda: server.get("channels/numbers").text.count('"newnumber"') > 1)

    def test_sources_without_python(self, tmp_path: Path) -> None:
        with example(tmp_path, "sources.toml", "--config", "sources.toml") as server:
            wait_until(lambda: '"15 min":' in server.get("channels/machine").text)
            with (tmp_path / "notes.txt").open("a") as file:
                file.write("hello\n")
            wait_until(lambda: '"data":"hello"' in server.get("channels/notes").text)
            text = (EXAMPLES / "sources.toml").read_text("utf-8")
            [command] = re.findall(r"^# (curl .*)", text, re.MULTILINE)
            output = run(
                shlex.split(command.replace("localhost:8080", f"localhost:{server.port}")), tmp_path
            )
            assert '"offset":1' in output
            assert '"data":{"open":true}' in server.get("channels/door").text
            assert server.get("channels/numbers").text.count('"data"') == 0
        commented = re.sub(r"^# (?=\[sources|[a-z]+ = )", "", text, flags=re.MULTILINE)
        assert len(tomllib.loads(commented)["sources"]) == 6
        load(commented, "", {}, SourceTypes())


@contextmanager
def example(folder: Path, file: str, *options: str) -> Iterator[Server]:
    """A server that runs an example."""
    (folder / file).write_text((EXAMPLES / file).read_text("utf-8"))
    with running(Server(folder, *options)) as server:
        yield server
