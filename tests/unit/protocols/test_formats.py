from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pushserver.channels.publication import Publication
from pushserver.protocols import formats
from pushserver.protocols.formats import (
    HISTORY,
    SESSION_LINES,
    SESSION_SSE,
    SESSION_WEBSOCKET,
    STREAM_LINES,
    STREAM_SSE,
    STREAM_WEBSOCKET,
    Format,
    Reset,
    Subscribed,
    chunk,
    object_texts,
    publication_object,
)
from pushserver.protocols.websocket_frames import websocket_frame
from tests.unit.fakes.tools import EPOCH, row
from tests.unit.fakes.web import frames

EVENT = Publication("numbers", EPOCH, 1042, 41, 1795333977.0994, "newnumber", b'{"number":4.821}')
SUBSCRIBED = [Subscribed("a", EPOCH, 3, "e1:7", True), Subscribed("b", EPOCH, 0, "e1:7", True)]


def texts(data: bytes) -> list[bytes]:
    parsed = frames(data)
    assert all(frame.opcode == 1 and frame.final for frame in parsed)
    return [frame.payload for frame in parsed]


def test_publication_object_is_as_documented() -> None:
    assert json.loads(publication_object(EVENT)) == {
        "channel": "numbers",
        "event": "newnumber",
        "data": {"number": 4.821},
        "offset": 41,
        "id": "e1:1042",
        "time": 1795333977.099,
    }


def test_tags_are_in_the_object_if_there_are_any() -> None:
    tagged = Publication("a", EPOCH, 1, 1, 0.0, "message", b"1", {"k": "v"})
    assert json.loads(publication_object(tagged))["tags"] == {"k": "v"}


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 70_000])
def test_websocket_frame_of_any_size_is_one_unmasked_text(size: int) -> None:
    assert texts(websocket_frame(b"x" * size)) == [b"x" * size]


def test_frame_uses_the_shortest_form_of_its_length() -> None:
    assert [len(websocket_frame(b"x" * n)) - n for n in (125, 126, 65535, 65536)] == [2, 4, 4, 10]


def test_publication_on_a_raw_websocket_is_one_frame_of_its_object() -> None:
    assert texts(STREAM_WEBSOCKET.publications([EVENT])) == [publication_object(EVENT)]


def test_publication_in_a_session_is_one_frame_of_its_push() -> None:
    (text,) = texts(SESSION_WEBSOCKET.publications([EVENT]))
    assert json.loads(text)["push"]["pub"]["offset"] == 41
    assert texts(SESSION_WEBSOCKET.frame(b"{}")) == [b"{}"]


def test_opening_of_a_raw_websocket_has_the_position_in_each_channel() -> None:
    opening = [
        json.loads(text) for text in texts(STREAM_WEBSOCKET.make_opening(SUBSCRIBED, None, 1000))
    ]
    assert opening == [
        {
            "subscribed": {
                "channel": name,
                "epoch": EPOCH,
                "offset": offset,
                "id": "e1:7",
                "recovered": True,
            }
        }
        for name, offset in (("a", 3), ("b", 0))
    ]


def test_reset_of_a_raw_websocket_follows_the_positions() -> None:
    reset = Reset("evicted", EPOCH, "e1:7")
    opening = [
        json.loads(text)
        for text in texts(STREAM_WEBSOCKET.make_opening(SUBSCRIBED[:1], reset, 1000))
    ]
    assert list(opening[0]) == ["subscribed"]
    assert opening[1:] == [{"reset": {"reason": "evicted", "epoch": EPOCH, "id": "e1:7"}}]


def test_opening_of_an_event_stream_is_an_event_with_the_position() -> None:
    assert STREAM_SSE.make_opening(SUBSCRIBED, None, 2500) == (
        b"retry: 2500\nid: e1:7\nevent: pushserver-subscribed\n"
        b'data: {"epoch":"%b","id":"e1:7"}\n\n' % EPOCH.encode()
    )


def test_event_stream_over_several_logs_begins_with_the_position_in_each() -> None:
    opening = STREAM_SSE.make_opening([Subscribed("a", "e", 3, "e:9,f:4", True)], None, 2500)
    assert b"id: e:9,f:4\n" in opening
    assert opening.endswith(b'data: {"epoch":"e,f","id":"e:9,f:4"}\n\n')


def test_reset_of_a_part_of_a_stream_names_its_channels() -> None:
    (text,) = object_texts((), Reset("epoch", "e,f", "e:9,f:4", ["b"]))
    assert json.loads(text)["reset"]["channels"] == ["b"]


@pytest.mark.parametrize("reset", [None, Reset("epoch", EPOCH, "e1:7")])
def test_every_empty_line_of_an_event_stream_ends_an_event_with_data(reset: Reset | None) -> None:
    beat = STREAM_SSE.heartbeat
    opening = STREAM_SSE.make_opening(SUBSCRIBED, reset, 2500)
    text = beat + opening + beat + beat + STREAM_SSE.publications([EVENT, EVENT]) + beat
    blocks = text.split(b"\n\n")
    assert blocks.pop() == beat
    assert len(blocks) == 3
    for block in blocks:
        (data,) = [line[6:] for line in block.split(b"\n") if line.startswith(b"data: ")]
        assert json.loads(data)


def test_reset_of_an_event_stream_is_an_event() -> None:
    opening = STREAM_SSE.make_opening(SUBSCRIBED, Reset("epoch", EPOCH, "e1:7"), 2500)
    head, _, data = opening.partition(b"data: ")
    assert head == b"retry: 2500\nid: e1:7\nevent: pushserver-reset\n"
    assert data.endswith(b"\n\n")
    assert json.loads(data) == {"reason": "epoch", "epoch": EPOCH, "id": "e1:7"}


def test_publication_in_an_event_stream_is_an_id_and_one_line_of_data() -> None:
    block = STREAM_SSE.publications([EVENT])
    assert block == b"id: e1:1042\ndata: " + publication_object(EVENT) + b"\n\n"
    assert block.count(b"\n") == 3


SEVERAL = [row(offset, data=b'"%b"' % (b"x" * 300 * offset)) for offset in (1, 2, 3)]
PLAIN: list[Any] = [
    SESSION_WEBSOCKET,
    SESSION_SSE,
    SESSION_LINES,
    STREAM_WEBSOCKET,
    STREAM_SSE,
    STREAM_LINES,
    SESSION_WEBSOCKET.coded,
    STREAM_WEBSOCKET.coded,
]
RESPONSES = [SESSION_SSE, SESSION_LINES, STREAM_SSE, STREAM_LINES]


def named(format_: Format) -> str:
    return format_.name


@pytest.mark.parametrize("format_", PLAIN, ids=named)
def test_each_of_several_publications_is_a_separate_frame(
    format_: Format,
) -> None:
    assert format_.publications(SEVERAL) == b"".join(format_.publications([one]) for one in SEVERAL)


@pytest.mark.parametrize("plain", RESPONSES, ids=named)
def test_several_publications_in_a_chunked_response_are_one_chunk(plain: Format) -> None:
    chunked = plain.coded
    assert chunked is not None
    for rows in (SEVERAL[:1], SEVERAL):
        assert chunked.publications(rows) == chunk(plain.publications(rows))


def test_a_chunk_without_a_byte_would_end_the_response() -> None:
    assert chunk(b"") == b""


def test_history_answer_has_all_publications_of_a_batch() -> None:
    answer = json.loads(HISTORY.publications(SEVERAL))
    assert [one["offset"] for one in answer["publications"]] == [1, 2, 3]
    assert (answer["offset"], answer["id"]) == (3, "e1:3")


def test_heartbeats_are_a_ping_and_a_comment() -> None:
    (ping,) = frames(STREAM_WEBSOCKET.heartbeat)
    assert (ping.opcode, ping.payload) == (9, b"")
    assert STREAM_WEBSOCKET.answered
    assert STREAM_SSE.heartbeat == b":\n"
    assert not STREAM_SSE.answered


def test_lines_end_with_a_line_break() -> None:
    assert formats.line(b"{}") == b"{}\n"


def test_formats_are_compared_by_identity() -> None:
    twin = replace(STREAM_SSE)
    assert twin != STREAM_SSE
    assert len({twin, STREAM_SSE, STREAM_SSE}) == 2
