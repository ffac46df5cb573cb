"""The messages between processes: each arrives as it was sent, in pieces of any size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver import errors
from pushserver.channels.position import Cursor
from pushserver.channels.publication import ClientInfo, Draft, Publication, Receipt
from pushserver.cluster.messages import (
    AskEvent,
    AskPublish,
    Attach,
    BadMessage,
    Clear,
    Cleared,
    Counted,
    Done,
    Failed,
    Follow,
    Frames,
    FromAuthor,
    FromFollower,
    Hello,
    Images,
    Installed,
    Leave,
    Logged,
    Message,
    Outdated,
    Publish,
    Published,
    Row,
    Say,
    Spread,
    error_of,
    failed,
    frame,
)
from pushserver.errors import PushServerError
from pushserver.hub.follower import Image, Point
from pushserver.sessions.visit import Visit

MOST = 10_000
INFO = ClientInfo("c", "user ü", b'{"a":1}', b"2")
ROW = Publication("a", "e", 7, 3, 1.5, "event", b"[1]", {"tag": "text"}, INFO)
UP: list[Message] = [
    Hello("1.0"),
    Attach([Point("a", "e", 1)]),
    Follow(1, [Point("a"), Point("b", "e-1", 2)]),
    Leave(["a"]),
    Installed(0),
    Publish(2, Draft("a", b'"\xc3\xbc"', "event", {"t": "x"}, INFO, "key\t1", "p", ("x",))),
    Clear(3, "a"),
    AskPublish(4, INFO, 2.5, b"\xff", Visit("192.0.2.1", "http", {"a": "b"}), "a", b"[1]"),
    Counted(False, {"users": {"ü": -1}}, {}),
    Logged(2, 1.5, "warn", "n", "e", "text ü", "", {"a": None, "b": True, "c": 2**63, "d": -0.5}),
]
DOWN: list[Message] = [
    Images(1, [Cursor("e", 9)], [Image("a", "e-2", 4, 5, [ROW], [0.5], 4)]),
    Row(ROW, ("x",)),
    Cleared("a"),
    Counted(True, {"connections": {"": 3}}, {"wrong_keys_per_minute": {"10.0.0.1": 2}}),
    Published(2, Receipt("e", 1, 2)),
    Done(3),
    Failed(4, "Unavailable", "text", {"cause": "store"}),
    Outdated("1.0"),
]


def received(types: Any, data: bytes, sizes: list[int]) -> list[Any]:
    """The messages in the data, which comes in pieces of these sizes, and then the rest."""
    frames = Frames(types, MOST)
    messages: list[Any] = []
    for size in [*sizes, len(data)]:
        piece, data = data[:size], data[size:]
        messages += frames.feed(piece)
    return messages


@given(st.lists(st.integers(0, 40), max_size=40))
def test_messages_arrive_as_they_were_sent_in_pieces_of_any_size(sizes: list[int]) -> None:
    for types, messages in ((FromFollower, UP), (FromAuthor, DOWN)):
        assert received(types, b"".join(map(frame, messages)), sizes) == messages


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**4_000])
def test_number_of_any_length_arrives_as_it_was_sent(number: int) -> None:
    values = [number, {"a": [number, True, b"b", "c", None, -0.5]}]
    message = AskEvent(1, 2, "event", values)
    assert received(FromFollower, frame(message), []) == [message]
    said = Say(2, Spread.of((number, "c")), "event")
    (arrived,) = received(FromAuthor, frame(said), [])
    assert arrived.values.data == (number, "c")


def test_message_over_the_bound_is_refused_before_it_is_received() -> None:
    with pytest.raises(BadMessage, match="10001 bytes, more than 10000"):
        received(FromAuthor, (MOST + 1).to_bytes(4, "big"), [])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xc1",
        b"x",
        frame(Done(1))[4:] + b"x",
        frame(UP[0])[4:],
        b"\x92\xcc\xff\x01",
        # An extension of an unknown type as the value of an answer.
        b"\x93\x1a\x01\xd4\x07\x00",
    ],
)
def test_bytes_that_are_no_message_are_refused(text: bytes) -> None:
    with pytest.raises(BadMessage, match="not a message"):
        received(FromAuthor, len(text).to_bytes(4, "big") + text, [])


@pytest.mark.parametrize(
    ("types", "message", "number"),
    [(FromFollower, Hello("1.0"), 0), (FromAuthor, Outdated("1.0"), 50)],
    ids=["Hello", "Outdated"],
)
def test_version_can_be_decoded_by_all_versions(types: Any, message: Message, number: int) -> None:
    assert frame(message) == b"\0\0\0\x06\x92%c\xa31.0" % number
    later = b"\0\0\0\x0c\x94%c\xa31.0\x81\xa1a\1\x91\xc3" % number
    assert received(types, later, []) == [message]


ERRORS: list[PushServerError] = [
    errors.Unavailable("text", "overloaded"),
    errors.LimitExceeded("text", "channels"),
    errors.TooMany("text", "setting", 2.5, 503),
    errors.Denied(401, "text"),
    errors.WrongKey("text", 429, 1.0),
    errors.ExpiredToken("text"),
    errors.InvalidData("text"),
    errors.Refused("text", 4_001),
    errors.NotHandled("text"),
    errors.HandlerFailed("text"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_of_a_call_is_the_same_at_the_other_end(error: PushServerError) -> None:
    (message,) = received(FromAuthor, frame(failed(1, error)), [])
    found = error_of(message)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)
    assert found.http_status == error.http_status
    assert found.centrifuge_code == error.centrifuge_code


@pytest.mark.parametrize("kind", ["", "annotations", "Exception", "TYPE_CHECKING", "no"])
def test_error_of_another_kind_is_refused(kind: str) -> None:
    with pytest.raises(BadMessage, match="which is no error"):
        error_of(Failed(1, kind, "text", {}))
