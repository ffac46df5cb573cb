"""Orders for the clients of a user: their encoding, for other servers."""

from __future__ import annotations

import pytest

from pushserver.channels.position import Position
from pushserver.sessions.callbacks import Invitation
from pushserver.sessions.orders import (
    End,
    Order,
    Prolong,
    Subscribe,
    Tell,
    Unsubscribe,
    decode,
    encode,
)


@pytest.mark.parametrize(
    "order",
    [
        End("u", None, None, 4500, "bye", ("c1", "c2")),
        Unsubscribe("u", "c", None, "a", 2000, "out"),
        Subscribe("u", None, "s", "a", Invitation(b"{}", b"1", Position("e", 7), True, 5.0, 3)),
        Prolong("u", None, None, 1_795_000_000),
        Tell(b'{"a":1}', "event", ("c1",)),
    ],
)
def test_order_arrives_as_it_was_given(order: Order) -> None:
    assert decode(encode(order)) == order


@pytest.mark.parametrize("text", [b"", b"{}", b"\xc0", b"\x92\x09\x01", encode([1, 2]), b"x" * 99])
def test_other_bytes_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(text)
