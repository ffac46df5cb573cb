from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.channels.publication import ClientInfo, Publication
from pushserver.errors import Invalid
from pushserver.protocols import centrifuge
from pushserver.protocols.centrifuge import CommandError, FrameError
from pushserver.protocols.formats import publication_object
from tests.unit.fakes.tools import EPOCH, row


def names(text: bytes) -> list[tuple[int, str]]:
    return [(command.id, centrifuge.method(command)[0]) for command in centrifuge.commands(text)]


def test_each_line_of_a_frame_is_a_command() -> None:
    text = b'{"id":1,"connect":{}}\n\n  \r\n{"id":2,"subscribe":{"channel":"a"}}\n'
    assert names(text) == [(1, "connect"), (2, "subscribe")]
    assert names(b"") == names(b"\n \n") == []


def test_empty_object_is_a_pong() -> None:
    assert names(b"{}") == [(0, "")]


@pytest.mark.parametrize("method", centrifuge.METHODS)
def test_every_method_is_decoded_with_its_request(method: str) -> None:
    (command,) = centrifuge.commands(b'{"id": 7, "%b": {"x": [1, 2]}}' % method.encode())
    assert centrifuge.method(command) == (method, b'{"x": [1, 2]}')


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"nonsense", "not JSON"),
        (b"[]", "not a command"),
        (b"1", "not a command"),
        (b"null", "not a command"),
        (b'{"id":"1"}', "not a command"),
        (b'{"id":1.5,"ping":{}}', "not a command"),
        (b'{"id":1', "not JSON"),
        (b"\xff", "not JSON"),
        (rb'{"id":1,"publish":{"channel":"x","data":"\ud83d"}}', "not JSON: a lone surrogate"),
        (b'{"connect":' * 100_000, "not JSON"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_line_that_is_not_a_command_ends_the_frame_with_the_reason(text: bytes, why: str) -> None:
    decoded = centrifuge.commands(b'{"id":1,"ping":{}}\n' + text)
    assert centrifuge.method(next(decoded))[0] == "ping"
    with pytest.raises(FrameError, match=why):
        next(decoded)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"id":1,"connect":{},"ping":{}}', "one method, not connect and ping"),
        (b'{"id":3}', "command 3 has no method; expected one of connect, subscribe"),
        (b'{"id":3,"fly":{}}', "command 3 has no method"),
    ],
)
def test_command_has_exactly_one_method_of_the_protocol(text: bytes, why: str) -> None:
    (command,) = centrifuge.commands(text)
    with pytest.raises(FrameError, match=why):
        centrifuge.method(command)


def test_unknown_fields_are_ignored() -> None:
    request = centrifuge.request(
        b'{"channel":"a","delta":"fossil","new":[1]}', centrifuge.SubscribeRequest
    )
    assert (request.channel, request.recover, request.offset) == ("a", False, 0)


@pytest.mark.parametrize(
    ("text", "kind", "field"),
    [
        (b"{}", centrifuge.SubscribeRequest, "channel"),
        (b'{"channel":1}', centrifuge.SubscribeRequest, "channel"),
        (b'{"channel":"a","offset":"1"}', centrifuge.SubscribeRequest, "offset"),
        (b'{"channel":"a","offset":1.5}', centrifuge.SubscribeRequest, "offset"),
        (b'{"channel":"a","recover":1}', centrifuge.SubscribeRequest, "recover"),
        (b'{"channel":"a","epoch":null}', centrifuge.SubscribeRequest, "epoch"),
        (b'{"channel":"a","since":{"offset":[]}}', centrifuge.HistoryRequest, "since.offset"),
        (b'{"channel":"a"}', centrifuge.PublishRequest, "data"),
        (b'{"last":"3"}', centrifuge.SubscribeData, "last"),
        (b'{"headers":[]}', centrifuge.ConnectRequest, "headers"),
        (b"null", centrifuge.ChannelRequest, "null"),
        (b"[]", centrifuge.ChannelRequest, "array"),
    ],
)
def test_error_for_a_wrong_request_names_the_field(text: bytes, kind: Any, field: str) -> None:
    with pytest.raises(Invalid, match=field) as refused:
        centrifuge.request(text, kind)
    error = centrifuge.error_object(refused.value)
    assert error.code == 107
    assert error.message.startswith("bad request: ")
    assert not error.temporary


def test_replies_repeat_the_id_and_the_method_and_leave_zeroes_out() -> None:
    reply = centrifuge.reply(5, "subscribe", centrifuge.SubscribeResult(epoch=EPOCH))
    assert json.loads(reply) == {"id": 5, "subscribe": {"epoch": EPOCH}}
    assert centrifuge.reply(6, "ping", centrifuge.Empty()) == b'{"id":6,"ping":{}}'


def test_error_reply_has_temporary_only_if_it_is_true() -> None:
    error = centrifuge.error_reply(3, CommandError(107, "bad"))
    assert json.loads(error) == {"id": 3, "error": {"code": 107, "message": "bad"}}
    error = centrifuge.error_reply(3, CommandError(100, "oh", temporary=True))
    assert json.loads(error)["error"]["temporary"] is True


def publication(**changed: Any) -> Publication:
    fields: dict[str, Any] = {
        "channel": "numbers",
        "epoch": EPOCH,
        "seq": 9,
        "offset": 4,
        "time": 1_795_000_000.999,
        "event": "newnumber",
        "data": b'{"number":4.821}',
    }
    return Publication(**{**fields, **changed})


def test_publication_is_pushed_with_its_event_as_a_tag_and_its_time_in_milliseconds() -> None:
    assert json.loads(centrifuge.publication_push(publication())) == {
        "push": {
            "channel": "numbers",
            "pub": {
                "data": {"number": 4.821},
                "offset": 4,
                "tags": {"event": "newnumber"},
                "time": 1_795_000_000_999,
            },
        }
    }


def test_time_is_that_of_the_other_forms_also_at_half_a_millisecond() -> None:
    row = publication(time=1796047039.0895)
    assert json.loads(publication_object(row))["time"] == 1796047039.089
    pub = json.loads(centrifuge.publication_push(row))["push"]["pub"]
    assert pub["time"] == 1_796_047_039_089


def test_published_data_is_sent_unchanged() -> None:
    assert b'"data":1.50E+0' in centrifuge.publication_push(publication(data=b"1.50E+0"))


def test_tags_of_the_publisher_cannot_replace_the_event() -> None:
    pushed = json.loads(
        centrifuge.publication_push(publication(tags={"k": "v", "event": "forged"}))
    )
    assert pushed["push"]["pub"]["tags"] == {"k": "v", "event": "newnumber"}


def test_publication_of_a_client_has_its_info() -> None:
    info = ClientInfo("c1", "anna", b'{"name":"A"}', b"[1]")
    pushed = json.loads(centrifuge.publication_push(publication(info=info)))
    assert pushed["push"]["pub"]["info"] == {
        "user": "anna",
        "client": "c1",
        "conn_info": {"name": "A"},
        "chan_info": [1],
    }


def test_joins_and_leaves_have_the_info_without_empty_fields() -> None:
    info = ClientInfo("c1")
    joined = json.loads(centrifuge.join_push("a", info))
    assert joined == {"push": {"channel": "a", "join": {"info": {"user": "", "client": "c1"}}}}
    assert "leave" in json.loads(centrifuge.leave_push("a", info))["push"]


def test_unsubscribe_push_names_the_channel_the_code_and_the_reason() -> None:
    assert json.loads(centrifuge.unsubscribe_push("a", 2500, "insufficient state")) == {
        "push": {"channel": "a", "unsubscribe": {"code": 2500, "reason": "insufficient state"}}
    }


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        (1001, True),
        (3000, True),
        (3499, True),
        (3500, False),
        (3999, False),
        (4000, True),
        (4499, True),
        (4500, False),
        (4999, False),
    ],
)
def test_disconnect_push_says_whether_to_reconnect(code: int, reconnect: bool) -> None:
    pushed = json.loads(centrifuge.disconnect_push(code, "why"))["push"]["disconnect"]
    assert pushed == {"code": code, "reason": "why", "reconnect": reconnect}


def test_pushes_and_replies_are_one_line() -> None:
    event = "a\u2028b"
    for text in (
        centrifuge.publication_push(row(1)),
        centrifuge.publication_push(publication(event=event)),
        centrifuge.unsubscribe_push("a", 2000, "two\nlines"),
        centrifuge.error_reply(1, CommandError(107, "two\nlines")),
    ):
        assert b"\n" not in text
        json.loads(text)


@given(
    st.lists(
        st.binary(max_size=30)
        | st.text(max_size=30).map(str.encode)
        | st.dictionaries(
            st.sampled_from([*centrifuge.METHODS, "id", "x"]),
            st.integers() | st.just({}) | st.text(),
        ).map(lambda value: json.dumps(value).encode()),
        max_size=4,
    ).map(b"\n".join)
)
def test_any_bytes_are_commands_or_a_frame_error(text: bytes) -> None:
    with suppress(FrameError):
        for command in centrifuge.commands(text):
            name, request = centrifuge.method(command)
            assert name in {"", *centrifuge.METHODS}
            assert bool(name) == bool(request)
