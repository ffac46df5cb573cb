from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver.channels.publication import Publication
from pushserver.protocols.formats import Reset, Subscribed
from pushserver.protocols.fragments import (
    ACTIONS,
    MODES,
    datastar_fragments,
    html_fragments,
    turbo_fragments,
)
from pushserver.protocols.representations import DATA, OBJECTS
from tests.unit.fakes.tools import EPOCH
from tests.unit.fakes.web import frames

EVENT = Publication("numbers", EPOCH, 1042, 41, 1795333977.0994, "newnumber", b'{"number":4.821}')
WEBSOCKET: Any = DATA.websocket
SUBSCRIBED = [Subscribed("numbers", EPOCH, 3, "e1:7", True)]
RESET = Reset("evicted", EPOCH, "e1:7")
RESET_TEXT = {"reset": {"reason": "evicted", "epoch": EPOCH, "id": "e1:7"}}


def test_data_is_an_event_of_the_own_name_of_the_publication() -> None:
    block = b'id: e1:1042\nevent: newnumber\ndata: {"number":4.821}\n\n'
    assert DATA.sse.publications([EVENT]) == block


@pytest.mark.parametrize("name", ["pushserver-reset", "pushserver-"])
def test_no_publication_looks_like_an_event_of_the_server(name: str) -> None:
    row = Publication("numbers", EPOCH, 1, 1, 0.0, name, b"1")
    assert DATA.sse.publications([row]) == b"id: e1:1\ndata: 1\n\n"


def test_positions_and_heartbeats_of_an_event_stream_are_those_of_objects() -> None:
    for reset in (None, RESET):
        opening = DATA.sse.make_opening(SUBSCRIBED, reset, 2500)
        assert opening == OBJECTS.sse.make_opening(SUBSCRIBED, reset, 2500)
    assert DATA.sse.heartbeat == OBJECTS.sse.heartbeat


def test_data_is_one_message_of_a_websocket() -> None:
    (frame,) = frames(WEBSOCKET.publications([EVENT]))
    assert (frame.opcode, frame.payload) == (1, EVENT.data)


def test_a_websocket_of_data_begins_with_nothing_but_a_reset() -> None:
    assert WEBSOCKET.make_opening(SUBSCRIBED, None, 2500) == b""
    (frame,) = frames(WEBSOCKET.make_opening(SUBSCRIBED, RESET, 2500))
    assert json.loads(frame.payload) == RESET_TEXT


def test_data_is_one_line() -> None:
    assert DATA.lines is not None
    assert DATA.lines.publications([EVENT, EVENT]) == (EVENT.data + b"\n") * 2
    assert DATA.lines.make_opening(SUBSCRIBED, None, 2500) == b""
    assert json.loads(DATA.lines.make_opening(SUBSCRIBED, RESET, 2500)) == RESET_TEXT


def make(row: Publication) -> bytes | None:
    """The fragment of each of ROWS: of several lines, none, and one that failed."""
    return {1: b"<li>\n<b>1</b>\r\n</li>", 2: b"", 3: None}[row.offset]


ROWS = [Publication("chat:a", EPOCH, n, n, 0.0, "message", b"1") for n in (1, 2, 3)]
FAILED = (
    b'id: e1:3\nevent: pushserver-failed\ndata: {"channel":"chat:a","offset":3,"id":"e1:3",'
    b'"reason":"the fragment of this publication could not be made; the log of the server says why"'
    b"}\n\n"
)


def first_event(stream: bytes) -> list[bytes]:
    """The lines of the first event, of the three that a stream of the rows has."""
    first, rest = stream.split(b"\n\n", 1)
    assert rest == b"id: e1:2\n\n" + FAILED
    return first.split(b"\n")


def test_html_is_an_event_without_a_name() -> None:
    html = html_fragments(make)
    lines = [b"id: e1:1", b"data: <li>", b"data: <b>1</b>", b"data: </li>"]
    assert first_event(html.sse.publications(ROWS)) == lines


@pytest.mark.parametrize("action", ACTIONS)
def test_turbo_gets_its_element_in_an_event_without_a_name(action: str) -> None:
    turbo = turbo_fragments(make, action)
    assert first_event(turbo.sse.publications(ROWS)) == [
        b"id: e1:1",
        b'data: <turbo-stream action="%b" target="chat:a"><template><li>' % action.encode(),
        b"data: <b>1</b>",
        b"data: </li></template></turbo-stream>",
    ]


def test_an_element_of_turbo_in_the_fragment_stays_as_it_is() -> None:
    own = b'<turbo-stream action="refresh"></turbo-stream>'
    turbo = turbo_fragments(lambda row: own, "append")
    assert turbo.sse.publications(ROWS[:1]) == b"id: e1:1\ndata: " + own + b"\n\n"


@pytest.mark.parametrize("mode", MODES)
def test_datastar_gets_its_event(mode: str) -> None:
    datastar = datastar_fragments(make, mode)
    id_, event, *data = first_event(datastar.sse.publications(ROWS))
    assert (id_, event) == (b"id: e1:1", b"event: datastar-patch-elements")
    elements = [b"data: elements <li>", b"data: elements <b>1</b>", b"data: elements </li>"]
    head = [b"data: mode " + mode.encode(), b'data: selector [id="chat:a"]']
    assert data == (elements if mode == "outer" else head + elements)
    assert datastar.websocket is None


def test_a_websocket_has_one_message_for_each_fragment() -> None:
    for representation in (html_fragments(make), turbo_fragments(make, "append")):
        assert representation.websocket is not None
        first, last = frames(representation.websocket.publications(ROWS))
        assert b"<b>1</b>" in first.payload
        assert json.loads(last.payload)["failed"]["offset"] == 3
