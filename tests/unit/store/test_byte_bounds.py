"""Each bound in bytes counts whole entries: what it does not count, a publisher could make large.

The source is searched for bounds in bytes. Those of containers are filled with publications that
are large in one part each: the data, the tags, the event, the channel, or the client.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

import pushserver
from pushserver.channels.channel import Channel, ChannelOptions
from pushserver.channels.history import History
from pushserver.channels.publication import ClientInfo, Draft, Publication, content_bytes
from pushserver.config.limits import Limits
from pushserver.errors import Unavailable
from pushserver.hub import fanout
from pushserver.hub.audience import Audience
from pushserver.store import waiting
from pushserver.store.recorder import BatchRecorder
from tests.unit.fakes.tools import Time, make_hub
from tests.unit.store.runs import THREAD, Run

PACKAGE = Path(pushserver.__file__).parent

ONE = "of one text, which is refused, cut or skipped as a whole"
PACE = "bytes of one step; the rest comes in the next one"
MEMORY = "an estimate of the memory of an object, in one of the sums"
SUM = "filled by a test below"
CACHE = "entries with their names: test_replays_take_no_more_memory_than_they_count"
FRAMES = "the encoded bytes that wait for a peer"

BOUNDS = {
    "auth.jwks.MAX_JWKS_BYTES": ONE,
    "auth.token_keys.SECRET_BYTES": "none: the shortest good secret",
    "config.limits.token_bytes": ONE,
    "app.dispatch._SHOWN_BYTES": ONE,
    "config.limits.body_bytes": ONE,
    "config.limits.frame_bytes": ONE,
    "config.limits.history_total_bytes": SUM,
    "config.limits.queue_bytes": FRAMES,
    "config.limits.unsent_bytes": "test_bytes_are_those_of_all_pieces_each_counted_once",
    "config.secret_files.MAX_SECRET_BYTES": ONE,
    "channels.channel.CHANNEL_BYTES": MEMORY,
    "redis.writer.ORDER_BYTES": ONE,
    "channels.channel.history_bytes": SUM,
    "channels.publication.ROW_BYTES": MEMORY,
    "channels.publication._EMPTY_BYTES": MEMORY,
    "channels.publication._INFO_BYTES": MEMORY,
    "channels.publication._TAGS_BYTES": MEMORY,
    "channels.publication._TAG_BYTES": MEMORY,
    "resources.fragments.ENTRY_BYTES": MEMORY,
    "resources.fragments.MAX_BYTES": "test_fragments.py fills it",
    "resources.own_pages.MOST_BYTES": "data of one page: test_a_wrong_page_is_an_error_of_its_own",
    "resources.variants.ENTRY_BYTES": MEMORY,
    "resources.variants.MAX_VARIANT_BYTES": "test_static.py fills it",
    "cluster.link.MESSAGE_BYTES": ONE,
    "cluster.image_parts.PART_BYTES": PACE,
    "cluster.link.UNSENT_BYTES": SUM,
    "cluster.calls.CALL_BYTES": MEMORY,
    "cluster.calls.WAITING_BYTES": SUM,
    "redis.tail.ENTRY_BYTES": MEMORY,
    "redis.tail.LATE_BYTES": "test_entries_that_wait_for_images_have_a_bound",
    "redis.writer.DRAFT_BYTES": MEMORY,
    "redis.writer.WAITING_BYTES": "test_drafts_that_wait_have_a_bound",
    "diagnosis.server_findings.LOW_BYTES": "none: free space of a disk, for a warning",
    "hub.fanout.JOINED_BYTES": "as QUEUE_BYTES, of one batch",
    "hub.fanout.QUEUE_BYTES": SUM,
    "hub.fanout.SOCKET_BYTES": PACE,
    "flask.options.MAX_BYTES": ONE,
    "opener.MAX_BYTES": ONE,
    "reading.MAX_BYTES": ONE,
    "reading._SHOWN_BYTES": ONE,
    "api_call.MAX_ANSWER_BYTES": ONE,
    "api_call.SHOWN_BYTES": ONE,
    "command_line.piping.BATCH_BYTES": PACE,
    "command_line.piping.READ_BYTES": PACE,
    "resources.api_methods.MAX_BATCH_BYTES": "encoded answers: test_tags_count_in_this_bound",
    "resources.api_methods.ROW_BYTES": MEMORY,
    "resources.bulk.MOST_BYTES": "bodies: test_bodies_together_have_a_bound",
    "protocols.websocket_frames.SHORT_BYTES": ONE,
    "protocols.websocket_frames.WORTH_BYTES": ONE,
    "transports.polling.PAYLOAD_BYTES": PACE,
    "sessions.socketio.PACKET_BYTES": MEMORY,
    "sessions.socketio.WAITING_BYTES": "packets: test_waits_in_a_bounded_memory",
    "config.limits.waiting_bytes": "requests that wait: test_waiting.py",
    "sessions.working.PART_BYTES": "the part of each peer of waiting_bytes",
    "sessions.replay_cache.ENTRY_BYTES": MEMORY,
    "sessions.replay_cache.FIRST_BYTES": PACE,
    "sessions.replay_cache.MOST_BYTES": CACHE,
    "sessions.replay_cache.PORTION_BYTES": PACE,
    "sources.http_client.connection.HEAD_BYTES": ONE,
    "sources.http_client.response._ANY_BYTES": "none: how bytes are decoded",
    "sources.types.command.process.STDERR_BYTES": PACE,
    "sources.types.command.source.max_line_bytes": ONE,
    "sources.types.feed.reader.MAX_MEMORY_BYTES": "the kernel counts",
    "sources.types.feed.source.max_bytes": ONE,
    "sources.types.json_poll.max_bytes": ONE,
    "sources.types.sse.parser.MAX_ID_BYTES": ONE,
    "sources.types.sse.source.max_event_bytes": ONE,
    "sources.types.tail.logfile.HEAD_BYTES": ONE,
    "sources.types.tail.logfile.READ_BYTES": PACE,
    "sources.types.tail.source.max_catch_up_bytes": PACE,
    "sources.types.tail.source.max_line_bytes": ONE,
    "sources.types.webhook.source.MAX_SECRET_BYTES": ONE,
    "store.lines.LINE_BYTES": ONE,
    "store.opening._LOG_BYTES": "SQLite cuts the log",
    "store.removal.STEP_BYTES": "test_log_stays_small_while_long_histories_are_removed",
    "store.removal._ROW_BYTES": PACE,
    "store.source_memory.MOST_BYTES": ONE,
    "store.waiting.CALL_BYTES": MEMORY,
    "store.waiting.KEY_BYTES": MEMORY,
    "store.waiting.MAX_WAITING_BYTES": SUM,
    "store.waiting.ROW_BYTES": MEMORY,
    "store.wal._HEADER_BYTES": ONE,
    "command_line.subscribing.LINE_BYTES": ONE,
    "transports.outlet.KERNEL_BYTES": PACE,
    "transports.websocket.shell.MAX_REASON_BYTES": ONE,
    "wsgi.answer.AHEAD_BYTES": "pieces: test_a_small_piece_counts_with_its_memory",
    "wsgi.answer.ENTRY_BYTES": MEMORY,
    "wsgi.answer.MEMORY_BYTES": "as AHEAD_BYTES, of all answers",
    "web.first_bytes.MAX_HEAD_BYTES": ONE,
    "web.first_bytes.MAX_KEPT_BYTES": ONE,
    "web.first_bytes.MAX_NAME_BYTES": ONE,
    "web.short_post.MAX_BODY_BYTES": ONE,
    "web.short_post.MAX_HEAD_BYTES": ONE,
}
"""Each bound in bytes by its module and name, and what it bounds."""

_BOUND = re.compile(
    r"^(?:    )?([A-Za-z_]*(?:_BYTES|_bytes)|MAX_BYTES)(?:: [A-Z].*)? = ", re.MULTILINE
)


def test_each_bound_in_bytes_is_known() -> None:
    names = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts) + "." + name
        for path in PACKAGE.rglob("*.py")
        for name in _BOUND.findall(path.read_text())
        if not re.search(rf"^    {name} = ", path.read_text(), re.MULTILINE)
    }
    assert names - BOUNDS.keys() == set(), "add them to BOUNDS, with what they count"
    assert BOUNDS.keys() - names == set(), "remove them from BOUNDS: they no longer exist"
    assert {f"config.limits.{f.name}" for f in fields(Limits) if f.name.endswith("_bytes")} <= names


BIG = 10_000
PARTS: dict[str, Callable[[], Draft]] = {
    "data": lambda: Draft("a", b"7" * BIG),
    "tag": lambda: Draft("a", b"1", tags={"t": "x" * BIG}),
    "name of a tag": lambda: Draft("a", b"1", tags={"x" * BIG: "1"}),
    "many tags": lambda: Draft("a", b"1", tags={f"{n:05}": "xxxxx" for n in range(BIG // 10)}),
    "tag in UTF-8": lambda: Draft("a", b"1", tags={"t": "\N{FACE WITH TEARS OF JOY}" * (BIG // 4)}),
    "event": lambda: Draft("a", b"1", event="e" * BIG),
    "channel": lambda: Draft("a" * BIG, b"1"),
    "client": lambda: Draft("a", b"1", info=ClientInfo("c" * BIG)),
    "user": lambda: Draft("a", b"1", info=ClientInfo("c", user="u" * BIG)),
    "conn_info": lambda: Draft("a", b"1", info=ClientInfo("c", conn_info=b"7" * BIG)),
    "chan_info": lambda: Draft("a", b"1", info=ClientInfo("c", chan_info=b"7" * BIG)),
}
each_part = pytest.mark.parametrize("part", PARTS)


def numbered(draft: Draft, offset: int) -> Publication:
    return Publication(
        draft.channel, "e", offset, offset, 0.0, draft.event, draft.data, draft.tags, draft.info
    )


@each_part
def test_all_texts_count(part: str) -> None:
    draft = PARTS[part]()
    assert BIG <= content_bytes(draft) <= BIG + 30
    assert content_bytes(numbered(draft, 1)) == content_bytes(draft)


@each_part
def test_history_bytes_count_whole_publications(part: str) -> None:
    draft = PARTS[part]()
    channel = Channel(draft.channel, ChannelOptions(history_bytes=5 * BIG), "e")
    for offset in range(1, 21):
        channel.append(numbered(draft, offset), 0.0)
    assert len(channel) == 4
    channel.clear()
    assert channel.bytes == 0


@each_part
def test_queue_of_an_audience_counts_whole_publications(part: str) -> None:
    draft = PARTS[part]()
    audience = Audience(draft.channel, {draft.channel: 0})
    room, offset = make_hub()._fan_out.room, 0
    while room(audience):
        offset += 1
        assert offset * BIG <= fanout.QUEUE_BYTES + BIG, "no bound"
        audience.put(numbered(draft, offset))
    while audience.queue:
        before = len(audience.queue)
        audience.start_pass(fanout.JOINED_BYTES, lambda format_, batch: b"")
        assert (before - len(audience.queue)) * BIG <= fanout.JOINED_BYTES
    assert audience.queued_bytes == 0


def is_refused(published: Deferred[Any]) -> bool:
    """Whether it failed with Unavailable."""
    failures: list[Failure] = []
    published.addErrback(failures.append)
    return any(failure.check(Unavailable) for failure in failures)


@each_part
@pytest.mark.parametrize("durability", ["sync", "batched"])
def test_what_waits_for_a_commit_counts_whole_publications(
    part: str, durability: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", 20 * BIG)
    run = Run(path, durability, ChannelOptions())
    run.publish(0)
    run.tick()
    accepted = 0
    while not is_refused(Deferred.fromCoroutine(run.broker.publish(PARTS[part]()))):
        accepted += 1
        assert accepted <= 21, "no bound"
    assert accepted >= 15
    THREAD.finish()


@each_part
def test_history_bytes_hold_for_what_is_loaded(part: str, path: Path) -> None:
    draft = PARTS[part]()
    run = Run(path, "batched", ChannelOptions(history_bytes=100 * BIG))
    for _ in range(20):
        Deferred.fromCoroutine(run.broker.publish(draft))
    run.stop()
    again = Run(path, "batched", ChannelOptions(history_bytes=5 * BIG))
    channel = again.history.channels[draft.channel]
    assert (len(channel), channel.top) == (4, 20)
    assert channel.bytes <= 5 * BIG
    again.stop()


def test_keys_of_waiting_publications_count(monkeypatch: pytest.MonkeyPatch) -> None:
    committer: Any = type("Committer", (), {"problem": ""})()
    history = History(lambda _: ChannelOptions(), "e")
    recorder = BatchRecorder(committer, history, Time(), Clock(), 1.0)
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", 10_000)
    for n in range(13):
        recorder.check()
        recorder.append(numbered(Draft("a", b"1"), n), object())  # type: ignore[arg-type]
    with pytest.raises(Unavailable):
        recorder.check()
