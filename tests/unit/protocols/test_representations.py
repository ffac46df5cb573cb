from __future__ import annotations

import json

import pytest

from pushserver.channels.publication import Publication
from pushserver.protocols.formats import Reset, Subscribed
from pushserver.protocols.representations import DATA, OBJECTS
from tests.unit.fakes.tools import EPOCH
from tests.unit.fakes.web import frames

EVENT = Publication("numbers", EPOCH, 1042, 41, 1795333977.0994, "newnumber", b'{"number":4.821}')
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
    (frame,) = frames(DATA.websocket.publications([EVENT]))
    assert (frame.opcode, frame.payload) == (1, EVENT.data)


def test_a_websocket_of_data_begins_with_nothing_but_a_reset() -> None:
    assert DATA.websocket.make_opening(SUBSCRIBED, None, 2500) == b""
    (frame,) = frames(DATA.websocket.make_opening(SUBSCRIBED, RESET, 2500))
    assert json.loads(frame.payload) == RESET_TEXT


def test_data_is_one_line() -> None:
    assert DATA.lines is not None
    assert DATA.lines.publications([EVENT, EVENT]) == (EVENT.data + b"\n") * 2
    assert DATA.lines.make_opening(SUBSCRIBED, None, 2500) == b""
    assert json.loads(DATA.lines.make_opening(SUBSCRIBED, RESET, 2500)) == RESET_TEXT
