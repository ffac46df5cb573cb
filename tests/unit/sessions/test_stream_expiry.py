"""Streams and long-polls end with the token or login of their request."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pushserver.auth.identity import Identity
from pushserver.channels.position import Start
from pushserver.config.limits import Limits
from pushserver.protocols.formats import (
    STREAM_LINES,
    STREAM_SSE,
    STREAM_WEBSOCKET,
    End,
    StreamFormat,
)
from pushserver.sessions.event_stream import Stream
from pushserver.sessions.long_poll import LongPoll
from pushserver.sessions.node import Node
from tests.unit.fakes.tools import LINES, FakeTransport, Time, drive, make_node, publish

END = End(3005, "the token or login has expired")


def passes(node: Node, time: Time, seconds: int) -> None:
    for _ in range(seconds):
        time.now += 1
        time.turn()
        while node.peers.tick(time.seconds()):
            pass


def stream(node: Node, seconds: float, shape: StreamFormat = LINES) -> FakeTransport:
    transport = FakeTransport(shape)
    expires = node.clock() + seconds if seconds else 0.0
    follower = Stream(node, transport, Identity(user="42", expires=expires, token=True))
    drive(follower.follow(["a"], Start()))
    return transport


def test_a_stream_ends_with_its_token_and_says_why() -> None:
    time = Time()
    node = make_node(time=time)
    transport = stream(node, 30, replace(LINES, answered=False))
    passes(node, time, 29)
    publish(node, "a", 1)
    assert transport.closed is None
    transport.take()
    passes(node, time, 2)
    assert transport.take() == [{"end": {"code": 3005, "reason": END.reason}}]
    assert transport.closed == (3005, END.reason)
    assert not node.hub.channels()
    publish(node, "a", 2)
    assert transport.take() == []


def test_a_stream_without_an_end_continues() -> None:
    time = Time()
    node = make_node(time=time)
    transport = stream(node, 0, replace(LINES, answered=False))
    passes(node, time, 5_000)
    assert transport.closed is None


def test_heartbeats_keep_their_interval() -> None:
    """The end and the heartbeat have one timer: neither replaces the other."""
    beats = []
    for seconds in (0, 300):
        time = Time()
        node = make_node(time=time, limits=replace(Limits(), heartbeat_seconds=20))
        transport = stream(node, seconds, replace(LINES, answered=False))
        passes(node, time, 200)
        beats.append(transport.take().count("ping"))
        assert transport.closed is None
    assert all(10 <= count <= 14 for count in beats)


def test_a_clock_that_was_set_back_ends_it_later() -> None:
    time = Time()
    node = make_node(time=time)
    wall = node.clock()
    node.clock = lambda: wall - 50 + (time.now - wall)
    transport = FakeTransport(replace(LINES, answered=False))
    Stream(node, transport, Identity(expires=wall + 30))
    passes(node, time, 79)
    assert transport.closed is None
    passes(node, time, 2)
    assert transport.closed is not None


@pytest.mark.parametrize(
    ("shape", "frame"),
    [
        (STREAM_SSE, b'event: pushserver-end\ndata: {"code":3005,"reason":"%b"}\n\n'),
        (STREAM_LINES, b'{"end":{"code":3005,"reason":"%b"}}\n'),
        (STREAM_WEBSOCKET, b""),
    ],
)
def test_the_end_has_the_form_of_the_protocol(shape: StreamFormat, frame: bytes) -> None:
    expected = frame % END.reason.encode() if frame else b""
    assert shape.make_end(END) == expected
    chunked = shape.coded
    if frame:
        assert isinstance(chunked, StreamFormat)
        assert chunked.make_end(END) == b"%x\r\n%b\r\n" % (len(expected), expected)


def test_a_long_poll_ends_with_its_token() -> None:
    time = Time()
    node = make_node(time=time)
    bodies: list[bytes] = []
    failures: list[Exception] = []
    identity = Identity(user="42", expires=time.now + 10)
    poll = LongPoll(
        node, "a", bodies.append, failures.append, json.dumps("nothing").encode(), None, identity
    )
    drive(poll.wait(50))
    passes(node, time, 9)
    assert bodies == []
    passes(node, time, 2)
    assert bodies == [b'"nothing"']
