"""`/api/top`: the busiest channels, and the peers that leave most bytes unread."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.cluster.measures import Measure, SlowReader
from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Config
from pushserver.protocols.engineio import SEPARATOR
from pushserver.resources.top import MOST, NEWEST, busiest
from tests.unit.fakes.web import Line, Server, handshake

NOW = 1_795_000_000.0


def top(server: Server) -> dict[str, Any]:
    answer = server.get("/api/top", "POST", b"{}")
    assert answer.status == 200, answer
    content: dict[str, Any] = answer.json["result"]
    return content


def channels(server: Server) -> dict[str, int]:
    return {row["channel"]: row["num_clients"] for row in top(server)["channels"]}


def stream(server: Server, *names: str) -> Line:
    query = "&".join(f"channel={name}" for name in names)
    line = server.open(f"/events?{query}", accept="text/event-stream")
    line.take()
    return line


class TestChannels:
    def test_have_their_subscribers_and_their_offset(self) -> None:
        server = Server()
        stream(server, "a", "b")
        stream(server, "a")
        server.publish("a")
        server.publish("c")
        content = top(server)
        epoch = server.hub.history.peek("a").epoch
        assert content["channels"] == [
            {"channel": "a", "num_clients": 2, "offset": 1, "epoch": epoch},
            {"channel": "b", "num_clients": 1, "offset": 0, "epoch": epoch},
            {"channel": "c", "num_clients": 0, "offset": 1, "epoch": epoch},
        ]
        assert (content["num_channels"], content["num_subs"]) == (2, 3)

    def test_with_most_subscribers_come_first(self) -> None:
        server = Server()
        names = [f"c{number}" for number in range(MOST + 5)]
        stream(server, *names)
        for _ in range(2):
            stream(server, names[-1])
        stream(server, names[-2])
        listed = channels(server)
        assert list(listed)[:2] == [names[-1], names[-2]]
        assert len(listed) == MOST

    def test_with_most_publications_are_among_them(self) -> None:
        now = [NOW]
        server = Server(wall=lambda: now[0])
        stream(server, *[f"quiet{number}" for number in range(MOST)])
        for number in range(MOST + 5):
            for _ in range(2 + (number == 0)):
                server.publish(f"busy{number:02}")
        listed = channels(server)
        assert "busy00" in listed
        assert len(listed) == 2 * MOST
        now[0] += 60
        assert len(channels(server)) == MOST

    def test_that_retain_little_are_found_by_their_last_second(self) -> None:
        now = [NOW]
        server = Server(options=ChannelOptions(history_size=5), wall=lambda: now[0])
        for number in range(MOST):
            for _ in range(5):
                server.publish(f"slow{number}")
        now[0] += 5
        for _ in range(4):
            server.publish("a_fast_one")
        assert busiest(server.hub.history, now[0])[0] == "a_fast_one"

    def test_are_chosen_among_the_newest_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert NEWEST >= MOST
        monkeypatch.setattr("pushserver.resources.top.NEWEST", 2)
        now = [NOW]
        server = Server(wall=lambda: now[0])
        for name in ("a", "a", "b", "c"):
            now[0] += 0.1
            server.publish(name)
        assert set(busiest(server.hub.history, now[0])) == {"b", "c"}


class TestReaders:
    @pytest.mark.parametrize("shortcuts", [True, False])
    def test_are_those_with_most_unsent_bytes(self, shortcuts: bool) -> None:
        server = Server(Limits(queue_bytes=10_000_000), shortcuts=shortcuts)
        socket = server.open("/channels/a", **handshake())
        session = server.session()
        session.say({"id": 2, "subscribe": {"channel": "a"}})
        session.say({"id": 3, "subscribe": {"channel": "b"}})
        lines = [socket, session.line, stream(server, "a")]
        for line in lines:
            line.take()
            line.reading = False
        for name in "aaaaab":
            server.publish(name, "x" * 30_000)
        server.clock.advance(3)
        content = top(server)
        rows = content["readers"]
        kinds = [(row["transport"], row["protocol"]) for row in rows]
        assert kinds[0] == ("websocket", "centrifuge")
        assert sorted(kinds) == [
            ("sse", "plain"),
            ("websocket", "centrifuge"),
            ("websocket", "plain"),
        ]
        assert rows[0]["bytes"] > rows[1]["bytes"] > 0
        assert {row["seconds"] for row in rows} == {3.0}
        assert all(row["address"].startswith("127.0.0.1") for row in rows)
        clients = {peer.info.client for peer in server.node.peers}
        assert {row["client"] for row in rows} == clients
        assert content["unsent"]["clients"] == 3
        assert content["unsent"]["bytes"] == server_unsent(server)
        for line in lines:
            line.read()
        server.clock.advance(0)
        assert top(server)["readers"] == []

    def test_are_not_more_than_the_bound(self) -> None:
        server = Server(Limits(queue_bytes=10_000_000))
        lines = [stream(server, "a") for _ in range(MOST + 3)]
        for line in lines:
            line.reading = False
        for _ in range(5):
            server.publish("a", "x" * 30_000)
        content = top(server)
        assert len(content["readers"]) == MOST
        assert content["unsent"]["clients"] == MOST + 3

    def test_that_poll_have_their_address(self) -> None:
        server = Server()
        server.get("/socket.io/?EIO=4&transport=polling")
        [peer] = server.node.peers
        cast(Any, peer).outlet.write(b"4" * 70_000 + SEPARATOR)
        [row] = top(server)["readers"]
        assert row == {
            "address": "127.0.0.1",
            "transport": "polling",
            "protocol": "socketio",
            "client": peer.info.client,
            "user": "",
            "bytes": 70_001,
            "seconds": None,
        }


def server_unsent(server: Server) -> int:
    [peer, *_] = server.node.peers
    unsent: int = cast(Any, peer).outlet._bounds.unsent.bytes
    return unsent


def test_connections_are_counted_by_transport_and_protocol() -> None:
    server = Server()
    stream(server, "a")
    gone = stream(server, "a")
    server.session()
    gone.vanish()
    server.clock.advance(0)
    assert top(server)["connections"] == [
        {"transport": "sse", "protocol": "plain", "count": 1},
        {"transport": "websocket", "protocol": "centrifuge", "count": 1},
    ]


def test_the_uptime_has_fractions_and_the_counters_are_those_of_info() -> None:
    server = Server(wall=lambda: NOW)
    server.clock.advance(2.25)
    content = top(server)
    assert (content["uptime"], content["time"]) == (2.25, NOW)
    info = server.get("/api/info", "POST", b"{}").json["result"]["nodes"][0]
    assert info["uptime"] == 2
    assert content.items() >= {**info, "uptime": 2.25}.items()


def test_a_program_of_another_user_needs_a_key() -> None:
    server = Server(config=Config(auth=Auth(api_keys=["s3cret"], local_without_key=True)))
    server.own = None
    assert server.get("/api/info", "POST", b"{}").status == 200
    assert server.get("/api/top", "POST", b"{}").status == 401
    assert server.get("/api/top", "POST", b"{}", x_api_key="s3cret").status == 200


def test_slow_readers_are_those_of_all_processes_with_most_bytes() -> None:
    server = Server()
    for worker in (1, 2):
        slow = [
            SlowReader("192.0.2.1", "sse", "plain", f"{worker}", "", n, None) for n in range(MOST)
        ]
        link = server.service.measures.link(f"p{worker}", worker, False, tuple)
        link.told(Measure(unread_by=MOST, unsent_bytes=500, readers=slow))
    content = top(server)
    assert [row["bytes"] for row in content["readers"]] == [
        n for n in range(MOST - 1, MOST // 2 - 1, -1) for _ in range(2)
    ]
    assert (content["unsent"]["clients"], content["unsent"]["bytes"]) == (2 * MOST, 1_000)
