"""The counters of a whole server: each is moved by its own event, on every transport."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pushserver.config.settings import Auth, Config
from pushserver.hub import fanout
from pushserver.hub.metrics import Histogram, Metrics
from tests.unit.fakes.members import READY, Member, SlowTime
from tests.unit.fakes.tools import PLAIN, make_node, publish
from tests.unit.fakes.web import Line, Server, handshake

COMPRESSED = {**handshake(), "sec_websocket_extensions": "permessage-deflate"}
TRANSPORTS = {
    "websocket": ("/channels/a", handshake()),
    "websocket-deflate": ("/channels/a", COMPRESSED),
    "sse": ("/channels/a", {"accept": "text/event-stream"}),
    "lines": ("/channels/a", {"accept": "application/x-ndjson"}),
    "long-poll": ("/channels/a?since=now&wait=20", {"accept": "application/json"}),
    "centrifuge-websocket": ("/connection/websocket", handshake()),
    "centrifuge-websocket-deflate": ("/connection/websocket", COMPRESSED),
}


def open_one(server: Server, name: str) -> Line:
    if name in TRANSPORTS:
        path, headers = TRANSPORTS[name]
        return server.open(path, **headers)
    end = name.removeprefix("centrifuge-").replace("-", "_")
    return server.open(f"/connection/{end}", "POST", b'{"id":1,"connect":{}}')


def compressing() -> Server:
    config = Config()
    return Server(config=replace(config, server=replace(config.server, compress=True)))


@pytest.mark.parametrize("name", [*TRANSPORTS, "centrifuge-sse", "centrifuge-http-stream"])
def test_connection_is_counted_once_at_its_begin_and_once_at_its_end(name: str) -> None:
    server = compressing()
    lines = [open_one(server, name) for _ in range(2)]
    metrics = server.node.metrics
    assert (metrics.opened, metrics.closed) == ({name: 2}, {})
    for line in lines:
        line.vanish()
    server.advance(1)
    assert (metrics.opened, metrics.closed) == ({name: 2}, {name: 2})


def test_long_poll_ends_once_with_its_answer() -> None:
    server = Server()
    line = open_one(server, "long-poll")
    server.publish("a")
    line.take()
    line.vanish()
    assert server.node.metrics.closed == {"long-poll": 1}


def test_refused_handshake_is_no_connection() -> None:
    server = Server()
    server.open("/channels/a", **handshake(), origin="https://elsewhere.example").vanish()
    assert not server.node.metrics.opened
    assert server.node.metrics.denied == {"403": 1}


def test_refusals_are_counted_by_status_also_if_they_are_not_logged() -> None:
    server = Server(config=Config(auth=Auth(api_keys=["correct-horse-battery"])))
    for _ in range(20):
        server.open("/channels/a", "POST", b"1").vanish()
    assert server.node.metrics.denied == {"401": 20}


def test_refused_command_is_counted_by_its_code() -> None:
    server = Server()
    socket = server.session()
    socket.say({"id": 2, "publish": {"channel": "a", "data": 1}})
    assert server.node.metrics.denied == {"103": 1}


def pass_of(members: int, made: str, cost: float) -> Metrics:
    """The counters after a publication to so many members, each of which takes `cost` seconds."""
    time = SlowTime()
    node = make_node(time=time)
    for n in range(members):
        make = READY if made == "ready" else None
        Member(node.hub, time, f"{n}", PLAIN, make).join("numbers")
    time.cost = cost
    publish(node, "numbers", 1)
    time.pass_on()
    return node.metrics


def total(histogram: Histogram) -> int:
    return sum(histogram.counts)


@pytest.mark.parametrize("made", ["ready", "others"])
def test_bytes_of_deliveries_are_counted_with_them(made: str) -> None:
    one, three = pass_of(1, made, 0.0), pass_of(3, made, 0.0)
    assert (one.deliveries, three.deliveries) == (1, 3)
    assert three.delivered_bytes == 3 * one.delivered_bytes > 0


def test_pass_is_measured_once_whatever_the_number_of_its_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fanout, "SLICE", 3)
    metrics = pass_of(10, "ready", 0.001)
    assert (total(metrics.pass_seconds), total(metrics.fanout_seconds)) == (1, 1)
    assert metrics.pass_seconds.sum == pytest.approx(0.010, abs=1e-4)


def test_fan_out_time_contains_the_rest_in_which_the_publication_waited() -> None:
    time = SlowTime()
    node = make_node(time=time)
    Member(node.hub, time, "0", PLAIN, READY).join("numbers")
    time.cost = 0.4
    publish(node, "numbers", 1)
    publish(node, "numbers", 2)
    time.pass_on()
    metrics = node.metrics
    assert metrics.pass_seconds.sum == pytest.approx(0.8, abs=1e-4)
    # The second waited for half of the time that the first pass took.
    assert metrics.fanout_seconds.sum == pytest.approx(0.4 + 0.2 + 0.4, abs=1e-4)


def test_formats_of_one_transport_share_no_counter_with_others() -> None:
    server = compressing()
    names = [*TRANSPORTS, "centrifuge-sse"]
    for name in names:
        open_one(server, name)
    assert server.node.metrics.opened == Counter(names)
