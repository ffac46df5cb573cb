"""A stop in which something fails: the other steps follow, and the store is closed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pushserver import PushServer
from pushserver.config.limits import Limits
from pushserver.config.settings import Config, Store
from pushserver.server.service import ABORT_SECONDS
from tests.unit.fakes.web import Server, Trouble
from tests.unit.server.test_service import AtOnce
from tests.unit.store.runs import in_file

DRAIN = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Server:
    config = Config(
        sources={},
        store=Store(path=str(tmp_path / "s.db"), durability="batched", commit_milliseconds=10_000),
        limits=Limits(drain_seconds=DRAIN),
    )
    server = Server(config=config, app=PushServer())
    server.service._storage._committer._thread = AtOnce()  # type: ignore[union-attr]
    server.service.startService()
    server.clock.advance(0)
    server.publish("a", 1)
    return server


def stopped(server: Server) -> list[Any]:
    over: list[Any] = []
    server.service.stopService().addBoth(over.append)
    return over


def fail(*arguments: object) -> Any:
    raise RuntimeError("a fault")


FAULTS: dict[str, Callable[[Server], tuple[object, str]]] = {
    "a listener": lambda server: (server.service.ports._listeners[0], "stopService"),
    "the handler of stop": lambda server: (server.service._app, "call_stop_handler"),
    "publishing": lambda server: (server.node, "stop_publishing"),
    "waiting publishers": lambda server: (server.node, "settle"),
    "the site": lambda server: (server.site, "drain"),
    "the collector": lambda server: (server.service._collector, "stop"),
    "the end of the application": lambda server: (server.service._app, "stopService"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_store_is_closed_after_any_failure(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Trouble,
    tmp_path: Path,
    fault: str,
) -> None:
    place, name = FAULTS[fault](server)
    collect = server.service._collector.stop
    monkeypatch.setattr(place, name, fail)
    over = stopped(server)
    server.clock.advance(0)
    assert over == [None]
    assert ["the stop continues after a failure: " in line for line in trouble.take()] == [True]
    assert not server.service.failed
    assert in_file(tmp_path / "s.db") == {"a": [1]}
    collect()


@pytest.mark.parametrize("method", ["shut_down", "abort"])
def test_connection_that_fails_to_close_holds_no_other(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Trouble,
    tmp_path: Path,
    method: str,
) -> None:
    first, second = server.session(), server.session()
    [peer, _] = server.node.peers
    monkeypatch.setattr(type(peer), method, failing_for(peer, getattr(type(peer), method)))
    over = stopped(server)
    assert second.close() == (3001, "the server is shutting down")
    server.clock.advance(DRAIN)
    server.clock.advance(0)
    assert second.line.aborted
    server.clock.advance(ABORT_SECONDS)
    assert over == [None]
    lines = [line for line in trouble.take() if "dropping connection" not in line]
    assert "a connection could not be closed; the others are not affected" in lines[0]
    assert in_file(tmp_path / "s.db") == {"a": [1]}
    monkeypatch.undo()
    for socket in (first, second):
        socket.line.vanish()
    server.clock.advance(0)


def failing_for(one: object, method: Callable[[object], None]) -> Callable[[object], None]:
    def call(peer: object) -> None:
        if peer is one:
            fail()
        method(peer)

    return call
