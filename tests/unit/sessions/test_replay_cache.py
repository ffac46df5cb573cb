"""A history is encoded once for readers of the same publications, and not used for others."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from pushserver.channels.position import Start
from pushserver.channels.publication import Publication, StreamPublication
from pushserver.protocols.formats import each, publication_object
from pushserver.sessions import replay_cache
from pushserver.sessions.replay_cache import Replays
from tests.unit.fakes.tools import Client, Reader, drive, make_node, publish, row


class Counting:
    def __init__(self) -> None:
        self.calls = 0
        self.encode = each(self._encode)

    def _encode(self, publication: Publication) -> bytes:
        self.calls += 1
        return publication_object(publication)


def test_same_run_is_encoded_once() -> None:
    replays, counting = Replays(), Counting()
    rows = [row(n) for n in (1, 2, 3)]
    first = replays.encode("numbers", rows, counting.encode)
    assert replays.encode("numbers", list(rows), counting.encode) is first
    assert counting.calls == 3


@pytest.mark.parametrize(
    ("name", "offsets"),
    [("other", [1, 2, 3]), ("numbers", [1, 2]), ("numbers", [2, 3]), ("numbers", [1, 3])],
)
def test_another_run_channel_or_format_is_encoded_anew(name: str, offsets: list[int]) -> None:
    replays, counting = Replays(), Counting()
    replays.encode("numbers", [row(n) for n in (1, 2, 3)], counting.encode)
    rows = [row(n) for n in offsets]
    assert replays.encode(name, rows, counting.encode) == counting.encode(rows)
    assert replays.encode("numbers", rows, each(lambda _: b"x")) == b"x" * len(rows)


def test_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "MOST_BYTES", 3_000)
    replays = Replays()
    for n in range(1, 100):
        replays.encode("numbers", [row(n)], each(lambda _: b"x" * 300))
        assert 0 < len(replays._encoded) <= 3
    before = dict(replays._encoded)
    text = replays.encode("numbers", [row(100)], each(lambda _: b"x" * 5_000))
    assert (len(text), replays._encoded) == (5_000, before)


def test_cache_is_bounded_including_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_cache, "MOST_BYTES", 100_000)
    replays = Replays()
    for n in range(1, 100):
        replays.encode(str(n).zfill(16_384), [row(n)], each(lambda _: b"x"))
        assert 0 < len(replays._encoded) <= 5


def test_cleared_publications_are_not_sent() -> None:
    node = make_node()
    for channel in ("b", "a", "b"):
        publish(node, channel)
    drive(Reader(node).stream.follow(["a", "b"], Start(oldest=True)))
    drive(node.clear("a"))
    reader = Reader(node)
    drive(reader.stream.follow(["a", "b"], Start(oldest=True)))
    assert [message["channel"] for message in reader.take() if "data" in message] == ["b", "b"]


def test_clients_that_recover_from_the_same_position_get_the_same_answer() -> None:
    node = make_node()
    for n in range(5):
        publish(node, data=n)
    replies = [
        Client(node).command("subscribe", channel="numbers", recover=True, epoch="e1", offset=2)
        for _ in range(2)
    ]
    assert replies[0]["subscribe"] == replies[1]["subscribe"]
    assert [p["data"] for p in replies[0]["subscribe"]["publications"]] == [2, 3, 4]
    assert json.dumps(replies[0]["subscribe"]["publications"]).count("offset") == 3


def test_long_run_is_encoded_in_portions_that_are_shared() -> None:
    replays, counting = Replays(), Counting()
    rows = [row(n) for n in range(1, 3_001)]
    first, rest = replays.start("numbers", rows, counting.encode)
    assert rest is not None
    portions = [first, *rest]
    assert b"".join(portions) == counting.encode(rows)
    again, rest = replays.start("numbers", rows, counting.encode)
    assert rest is not None
    assert all(one is other for one, other in zip(portions, [again, *rest], strict=True))


def test_run_of_another_log_with_the_same_cursors_is_encoded_anew() -> None:
    replays, counting = Replays(), Counting()
    for epoch in ("L", "R"):
        first = StreamPublication.of(replace(row(1), epoch=epoch), "L:1,R:1")
        rows = [first, StreamPublication.of(row(2), "L:1,R:2")]
        assert replays.encode("both", rows, counting.encode) == counting.encode(rows)
