"""Sources of a configuration file in a real server."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.lines import Lines
from tests.e2e.patience import PATIENCE
from tests.e2e.server import PROBLEM, TWISTD, Server, environment, run_twistd

PLUGINS = """
import asyncio
import sys
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import implementer

from pushserver.sources.functions.adapt import adapt
from pushserver.sources.interface import ISource, ISourceType


@dataclass(frozen=True)
class Options:
    every: float = 0.1


async def deaf(feed):
    while True:
        try:
            await feed.publish("here")
            await Deferred()
        except Exception:
            pass


def hangs(feed):
    import time
    time.sleep(1_000)


def floods():
    while True:
        yield 1


async def flood_on_the_reactor():
    while True:
        yield 1


def odd():
    return {"a": [object()]}


def fails():
    raise LookupError("mine")


def exits():
    sys.exit(3)


async def waits_for_asyncio():
    await asyncio.sleep(0.01)
    return "slept"


TIMED = (hangs, odd, fails, exits, waits_for_asyncio)


@implementer(IPlugin, ISourceType)
class Kind:
    options = Options
    extra = ""

    def __init__(self, target):
        self.name = target.__name__
        self.target = target

    def make(self, options):
        every = options.every if self.target in TIMED else None
        return adapt(self.target, every)


for target in (deaf, floods, flood_on_the_reactor, *TIMED):
    globals()[f"kind_{target.__name__}"] = Kind(target)
"""

DIES = "raise RuntimeError('this plug-in dies at import')\n"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with two plug-in files of third parties, one of them broken."""
    folder = tmp_path_factory.mktemp("others")
    (folder / "twisted" / "plugins").mkdir(parents=True)
    (folder / "twisted" / "plugins" / "odd_sources.py").write_text(PLUGINS)
    (folder / "twisted" / "plugins" / "dies_at_import.py").write_text(DIES)
    return f"{environment()['PYTHONPATH']}:{folder}"


class Sources:
    """A server with the sources of a configuration."""

    def __init__(self, folder: Path, config: str, *options: str, **env: str):
        path = folder / "sources.toml"
        path.write_text(config)
        self.server = Server(folder, "--config", str(path), *options, env=environment(**env))

    def __enter__(self) -> Sources:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()

    def status(self, name: str) -> dict[str, Any]:
        """Return the status of a source."""
        stream = Lines(["curl", "-sS", "-d", "{}", f"{self.server.url}api/info"])
        with closing(stream):
            [node] = json.loads(stream.next())["result"]["nodes"]
        [status] = [source for source in node["sources"] if source["name"] == name]
        assert isinstance(status, dict)
        return status

    def wait(self, name: str, **expected: object) -> dict[str, Any]:
        """Return the status once it has the expected values."""
        deadline = time.monotonic() + PATIENCE
        while True:
            status = self.status(name)
            if all(status[key] == value for key, value in expected.items()):
                return status
            assert time.monotonic() < deadline, (status, self.server.log)
            time.sleep(0.05)

    def watch(self, channel: str) -> Lines:
        """Return a reader of the next publications of a channel."""
        url = f"{self.server.url}channels/{channel}"
        return Lines(["curl", "-sSN", "-H", "Accept: application/x-ndjson", url])

    def values(self, channel: str, count: int) -> list[Any]:
        """Return the next `count` data of a channel."""
        data: list[Any] = []
        with closing(self.watch(channel)) as stream:
            while len(data) < count:
                value = json.loads(stream.next())
                data += [value["data"]] if "data" in value else []
        return data


def table(name: str, kind: str, more: str = "") -> str:
    return f"[sources.{name}]\ntype = '{kind}'\nchannel = '{name}'\n{more}\n"


def test_several_sources_run_and_stop_with_the_server(tmp_path: Path) -> None:
    config = (
        table("quick", "random", "every = 0.05")
        + table("slow", "random", "every = 3600\nevent = 'hourly'")
        + table("asked", "random", "every = 0.05\non_demand = true\nlinger_seconds = 0.2")
        + table("clock", "cron", "expression = '@yearly'\ntimezone = 'UTC'")
        # Within the time of the test only a stop that waits for no source ends.
        + "[limits]\ndrain_seconds = 600\n"
    )
    with Sources(tmp_path, config) as sources:
        assert [list(data) for data in sources.values("quick", 3)] == [["number"]] * 3
        history = json.loads(sources.server.get("channels/slow").body)["publications"]
        assert [row["event"] for row in history] == ["hourly"]
        status = sources.status("asked")
        assert (status["state"], status["published"]) == ("waiting", 0)
        assert len(sources.values("asked", 3)) == 3
        published = sources.wait("asked", state="waiting")["published"]
        assert published >= 3
        assert len(sources.values("asked", 1)) == 1
        assert sources.wait("asked", state="waiting")["published"] > published
        assert sources.status("clock")["state"] == "running"
        sources.server.stop()
        assert sources.server.problems == []


ODD = "".join(
    table(name, name, more)
    for name, more in [
        ("hangs", ""),
        ("odd", ""),
        ("fails", ""),
        ("exits", ""),
        ("waits_for_asyncio", ""),
        ("deaf", ""),
        ("floods", "max_rate = 5"),
        ("flood_on_the_reactor", "max_rate = 1000000"),
    ]
) + table("good", "random", "every = 0.05")
ODD += "[limits]\ndrain_seconds = 1\n"


class TestFaultySource:
    @pytest.fixture(scope="class")
    @classmethod
    def sources(cls, tmp_path_factory: pytest.TempPathFactory, plugins: str) -> Iterator[Sources]:
        folder = tmp_path_factory.mktemp("odd")
        with Sources(folder, ODD, PYTHONPATH=plugins) as sources:
            yield sources
            sources.server.stop()
            log = sources.server.log
            assert "source deaf was stopped but does not end: it is abandoned" in log
            assert "Unhandled error in Deferred" not in log

    def test_faulty_sources_do_not_disturb_the_others(self, sources: Sources) -> None:
        assert len(sources.values("good", 10)) == 10
        assert sources.server.get("channels/good").status == 200
        status = sources.status("good")
        assert (status["errors"], status["restarts"], status["state"]) == (0, 0, "running")

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("odd", "object does not fit into JSON: .*(at ['a'][0] of the value"),
            ("fails", "LookupError: mine"),
            ("exits", "SystemExit: 3"),
            ("waits_for_asyncio", "twistd --reactor asyncio"),
        ],
    )
    def test_failed_tick_is_the_last_error_and_the_timer_continues(
        self, sources: Sources, name: str, error: str
    ) -> None:
        before = sources.wait(name, state="running")["errors"]
        deadline = time.monotonic() + PATIENCE
        while (status := sources.status(name))["errors"] <= before + 2:
            assert time.monotonic() < deadline
        assert all(part in status["last_error"] for part in error.split(".*"))
        assert (status["published"], status["restarts"]) == (0, 0)
        assert f"source {name}: a tick failed, and the next one follows" in sources.server.log

    def test_hanging_function_keeps_its_source_running(self, sources: Sources) -> None:
        status = sources.status("hangs")
        assert (status["state"], status["published"]) == ("running", 0)

    def test_flooding_source_is_slowed_and_logged(self, sources: Sources) -> None:
        assert sources.values("floods", 12) == [1] * 12
        lines = re.findall(r"source floods publishes more than its max_rate", sources.server.log)
        assert len(lines) == 1
        assert sources.values("flood_on_the_reactor", 1_000) == [1] * 1_000

    def test_plugin_that_fails_to_import_is_logged_and_the_others_load(
        self, tmp_path: Path, plugins: str
    ) -> None:
        config = table("good", "random", "every = 0.05")
        with Sources(tmp_path, config, PYTHONPATH=plugins) as sources:
            assert len(sources.values("good", 2)) == 2
            sources.server.stop()
        assert "this plug-in dies at import" in sources.server.log


def test_asyncio_works_on_its_own_reactor(tmp_path: Path, plugins: str) -> None:
    config = table("waits_for_asyncio", "waits_for_asyncio")
    path = tmp_path / "sources.toml"
    path.write_text(config)
    server = Server(
        tmp_path,
        "--config",
        str(path),
        twistd=[*TWISTD, "--reactor", "asyncio"],
        env=environment(PYTHONPATH=plugins),
    )
    try:
        server.start()
        stream = Lines(["curl", "-sSN", f"{server.url}channels/waits_for_asyncio?wait=20"])
        with closing(stream):
            assert "slept" in stream.next()
        server.stop()
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (table("s", "nothing"), "sources.s.type: there is no type 'nothing'"),
        (table("s", "random", "evry = 2"), "sources.s.evry: unknown key; did you mean every?"),
        (
            table("s", "cron", "expression = 'x'"),
            "sources.s: expression: 'x', expected five fields",
        ),
    ],
)
def test_invalid_source_ends_the_start_with_one_line(
    tmp_path: Path, config: str, words: str
) -> None:
    (tmp_path / "c.toml").write_text(config)
    ended = run_twistd(tmp_path, "--nodaemon", "--pidfile=", "pushserver", "--config", "c.toml")
    assert ended.returncode > 0
    [line] = [line for line in ended.stdout.splitlines() if line.startswith("pushserver: ")]
    assert line.startswith(f"pushserver: c.toml: {words}")
    assert not PROBLEM.search(ended.stdout)
