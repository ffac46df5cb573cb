"""The port of a process for the others, and the way of a request through it."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred

from pushserver.auth.proxy_header import make_proxy_header
from pushserver.config.limits import Limits
from pushserver.errors import StartFailed
from pushserver.server.inside import inner_port
from pushserver.server.place import Place
from tests.unit.fakes.web import Line, Server, Trouble, request

HEADER = make_proxy_header(("203.0.113.7", 4711), ("203.0.113.1", 80), False, direct=True)


def relayed(server: Server) -> Line:
    """A connection of another process to a server."""
    line = Line(server.clock, UNIXAddress(""))
    inner: Any = server.service.inner
    line.protocol = inner._factory.buildProtocol(UNIXAddress(""))
    line.protocol.makeConnection(line)
    return line


@pytest.mark.parametrize("name", ["plain", "a:b=c\\d"])
def test_socket_is_of_its_user_and_replaces_that_of_a_dead_process(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    place = Place(str(tmp_path / name), 3)
    for _ in range(2):
        server = Server()
        port = inner_port(place, server.site, server.clock, server.clock.seconds)
        port.startService()
        path = Path(place.http(3))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [file.name for file in path.parent.iterdir()] == ["http-3"]
        opened: Any = port._port
        # As the kernel does with a process that is killed.
        opened.socket.close()


def test_socket_is_made_after_its_folder(tmp_path: Path) -> None:
    place, server = Place(str(tmp_path / "later"), 3), Server()
    port = inner_port(place, server.site, server.clock, server.clock.seconds)
    port.privilegedStartService()
    assert not port.is_open
    (tmp_path / "later").mkdir()
    port.startService()
    assert port.is_open
    opened: Any = port._port
    opened.socket.close()


def test_socket_of_a_process_that_runs_stays(tmp_path: Path) -> None:
    place, server = Place(str(tmp_path), 3), Server()
    first, second = (
        inner_port(place, server.site, server.clock, server.clock.seconds) for _ in range(2)
    )
    first.startService()
    with pytest.raises(StartFailed, match="another program listens there"):
        second.startService()
    opened: Any = first._port
    opened.socket.close()


def test_one_process_has_no_such_port() -> None:
    assert Server().service.inner is None


@pytest.mark.parametrize("worker", [0, 2])
def test_its_connections_are_not_counted(tmp_path: Path, worker: int) -> None:
    limits = Limits(connections=1, connections_per_address=1, new_connections_per_second=1)
    server = Server(limits, place=Place(str(tmp_path), worker))
    connections = server.site.admission._connections
    for _ in range(5):
        line = relayed(server)
        # In two pieces, and in one.
        line.send(HEADER)
        line.send(request("/connection/other"))
        assert line.response().status == 404
        assert (connections.open, connections._by_name) == (0, {})
        line.vanish()
    assert connections.open == 0
    assert not server.site.channels


def test_a_request_has_the_address_of_its_client(tmp_path: Path, trouble: Trouble) -> None:
    server = Server(place=Place(str(tmp_path)))
    line = relayed(server)
    line.send(HEADER + request("/channels/numbers", "POST", b"1"))
    assert "another machine" in line.response().error[1]
    trouble.clear()


def test_requests_are_answered_before_it_stops(tmp_path: Path, trouble: Trouble) -> None:
    """As on the other ports: a keep-alive connection of a worker may ask until the end."""
    server = Server(place=Place(str(tmp_path)))
    publishing: Deferred[None] = Deferred()
    server.node.settle = lambda: _wait(publishing)  # type: ignore[method-assign]
    server.service.privilegedStartService()
    server.service.startService()
    server.clock.advance(0)
    path = Path(Place(str(tmp_path)).http(0))
    stopped: Any = server.service.stopService()
    assert path.exists()
    line = relayed(server)
    line.send(HEADER + request("/health/live"))
    assert line.response().status == 200
    publishing.callback(None)
    for _ in range(5):
        server.clock.advance(0)
    assert not path.exists()
    server.clock.advance(5)
    assert stopped.called
    trouble.clear()


async def _wait(waited: Deferred[None]) -> None:
    await waited
