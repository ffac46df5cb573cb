"""The numbering over kills, restarts and losses of a server of Redis."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.channels.history import History, Resumption
from pushserver.channels.position import Cursor, Position, Start
from pushserver.channels.publication import Draft
from pushserver.redis import scripts
from pushserver.redis.rows import Appended
from pushserver.redis.scripts import Attached, Known, Numbered
from tests.e2e.blocks import block_with
from tests.redis.node import KEYS, Node
from tests.redis.server import RedisError, RedisServer

OPTIONS = ChannelOptions(history_size=1_000, recovery_limit=1_000)


@contextmanager
def attached(server: RedisServer) -> Iterator[Node]:
    node = Node(server, options=OPTIONS)
    node.attach("e1")
    try:
        yield node
    finally:
        node.close()


def reconnect(node: Node, server: RedisServer) -> None:
    node.close()
    node.connect(server)


def is_fenced(node: Node) -> bool:
    with pytest.raises(RedisError, match=r"^FENCED "):
        node.publish()
    return True


def at_follower(node: Node) -> History:
    """The history of a follower that has an image of the channel `a`."""
    answer = node.images([])
    image = node.image()
    history = History(lambda name: OPTIONS, answer.epoch, answer.seq)
    channel = history.restore("a", image.epoch, image.floor, image.floor_seq)
    for row in image.rows:
        history.room.append(channel, row, 0.0)
    return history


def test_everything_is_there_after_a_kill_with_each_write_on_the_disk(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, appendonly="yes", appendfsync="always") as server,
        attached(server) as node,
    ):
        for _ in range(50):
            node.publish()
        server.restart()
        reconnect(node, server)
        assert is_fenced(node)
        assert node.attach("e2", keep=True) == Attached("e1", 50, 50)
        numbers = node.publish()
        assert (numbers.epoch, numbers.seq, numbers.offset) == ("e1", 51, 51)
        found = at_follower(node).resume("a", Position("e1", 40))
        assert [row.offset for row in found.publications] == list(range(41, 52))


def test_a_node_that_has_seen_more_than_there_is_makes_another_epoch(redis: RedisServer) -> None:
    with attached(redis) as node, attached(redis) as other:
        for _ in range(10):
            node.publish()
        redis.connection("SAVE")
        for _ in range(5):
            node.publish()
        seen = Known(node.run, "e1", 15)
        redis.restart()
        reconnect(node, redis)
        reconnect(other, redis)
        # Another one, which knows nothing, is first, and publishes until the numbers are as high.
        assert other.attach("e2", keep=True, known=[Known("", "", 0)]) == Attached("e1", 10, 10)
        other.counter = 10
        for _ in range(20):
            other.publish()
        assert node.attach("e3", keep=True, known=[Known("", "", 0), seen]) == Attached(
            "e3", 30, 30
        )
        assert other.attach("e4", keep=True, known=[Known(other.run, "e1", 30)]).epoch == "e3"


def test_a_node_knows_data_of_an_epoch_that_had_passed(redis: RedisServer) -> None:
    with attached(redis) as node:
        node.publish()
        redis.connection("SAVE")
        redis.connection("HDEL", KEYS.meta, "run")
        assert node.attach("e2") == Attached("e2", 1, 1)
        seen = Known(node.run, "e2", 1)
        # That of the past is no other one's.
        assert node.attach("e3", known=[Known("run", "e1", 9)]).epoch == "e2"
        redis.restart()
        reconnect(node, redis)
        assert node.attach("e4", keep=True, known=[seen]) == Attached("e4", 1, 1)
        assert node.attach("e5", known=[seen, Known(node.run, "e4", 1)]).epoch == "e4"


def test_the_command_after_a_restore_makes_another_epoch(redis: RedisServer) -> None:
    with attached(redis) as node:
        node.publish()
        command, printed = block_with("docs/scaling.md", "$ redis-cli hdel").text.splitlines()
        answer = redis.connection(*shlex.split(command)[2:])
        assert printed == f"(integer) {answer}"
        assert node.attach("e2", keep=True) == Attached("e2", 1, 1)


def test_settings_of_the_document_are_known(tmp_path: Path) -> None:
    blocks = (
        block_with("docs/scaling.md", "appendfsync"),
        block_with("docs/scaling.md", "min-replicas-max"),
    )
    lines = [line.text for block in blocks for line in block.lines]
    settings = dict(line.split() for line in lines if line[0] != "#")
    with RedisServer(tmp_path, **settings) as server:
        for name, value in settings.items():
            assert server.connection("CONFIG", "GET", name) == [name.encode(), value.encode()]


def test_a_node_that_has_seen_all_there_is_keeps_the_epoch(redis: RedisServer) -> None:
    with attached(redis) as node:
        for _ in range(10):
            node.publish()
        redis.connection("SAVE")
        seen = Known(node.run, "e1", 10)
        redis.restart()
        reconnect(node, redis)
        assert node.attach("e2", keep=True, known=[seen]) == Attached("e1", 10, 10)
        node.publish()
        assert node.attach("e3", keep=True, known=[seen, Known(node.run, "e1", 11)]).epoch == "e1"


@pytest.mark.parametrize("appendfsync", ["always", "everysec", "no"])
def test_a_killed_process_leaves_whole_steps_and_what_it_answered(
    tmp_path: Path, appendfsync: str
) -> None:
    drafts = [Draft("ab"[n % 2], b"%d" % n) for n in range(1, 401)]
    with (
        RedisServer(tmp_path, appendonly="yes", appendfsync=appendfsync) as server,
        attached(server) as node,
    ):
        applied = 0
        for answers in (1, 30, 60, 100):
            node.redis("SCRIPT", "LOAD", scripts.PUBLISH.text)
            part = list(enumerate(drafts, 1))[applied : applied + 100]
            node.redis.send(*(node.publication(draft, n).evalsha for n, draft in part))
            answered = applied
            for _ in range(answers):
                node.redis.receive()
                answered += 1
            server.kill()
            with suppress(ConnectionError):
                while True:
                    node.redis.receive()
                    answered += 1
            server.start()
            reconnect(node, server)
            applied = node.attach("e2", keep=True).counter
            # With everysec, Redis defers its write while it syncs.
            assert answered <= applied or appendfsync == "everysec"
        for n, draft in list(enumerate(drafts, 1))[applied:]:
            assert node.send(draft, n).kind == "new"
        rows = [entry.publication for entry in node.log() if isinstance(entry, Appended)]
        assert [row.data for row in rows] == [draft.data for draft in drafts]
        assert [row.seq for row in rows] == list(range(1, 401))
        for channel in "ab":
            own = [row for row in rows if row.channel == channel]
            assert node.image(channel).rows == own
            assert [row.offset for row in own] == list(range(1, 201))


def test_a_server_that_may_have_lost_some_has_another_epoch(tmp_path: Path) -> None:
    with (
        RedisServer(tmp_path, appendonly="yes", appendfsync="everysec") as server,
        attached(server) as node,
    ):
        node.publish()
        server.restart()
        reconnect(node, server)
        assert node.attach("e2") == Attached("e2", 1, 1)
        assert at_follower(node).resume("a", Position("e1", 1)) == Resumption((), "epoch")


def test_no_position_of_lost_publications_is_valid_again(redis: RedisServer) -> None:
    with attached(redis) as node:
        for _ in range(100):
            node.publish()
        redis.connection("SAVE")
        for _ in range(50):
            lost = node.publish(data=b'"lost"')
        assert (lost.epoch, lost.seq, lost.offset) == ("e1", 150, 150)
        redis.restart()
        reconnect(node, redis)
        assert node.attach("e2") == Attached("e2", 100, 100)
        for _ in range(50):
            other = node.publish(data=b'"other"')
        assert (other.epoch, other.seq, other.offset) == ("e2", 150, 150)
        history = at_follower(node)
        for offset in (1, 100, 101, 149, 150):
            assert history.resume("a", Position("e1", offset)).reason == "epoch"
            assert history.read(["a"], Start(since=Cursor("e1", offset))).reason == "epoch"
        assert history.resume("a", Position("e2", 150)) == Resumption([])
        # A node that had them gets all rows anew.
        image = node.image(epoch="e1", offset=150)
        assert len(image.rows) == 150


def test_a_server_without_files_begins_again(redis: RedisServer) -> None:
    with attached(redis) as node:
        node.publish()
        redis.restart()
        reconnect(node, redis)
        assert node.alive() == ("", "", 0)
        assert is_fenced(node)
        assert node.attach("e2") == Attached("e2", 0, 0)
        # Its counters begin again too: nothing of it is there.
        node.counter = 0
        numbers = node.publish()
        assert (numbers.epoch, numbers.seq, numbers.offset) == ("e2", 1, 1)


def test_flushed_data_sets_begin_again_in_the_same_run(redis: RedisServer) -> None:
    with attached(redis) as node:
        node.publish()
        redis.connection("FLUSHALL")
        assert is_fenced(node)
        assert redis.connection("EXISTS", KEYS.log) == 0
        assert node.attach("e2") == Attached("e2", 0, 0)


def test_a_connection_of_the_last_run_is_fenced_when_another_one_is_attached(
    redis: RedisServer,
) -> None:
    with attached(redis) as node, attached(redis) as other:
        assert other.attach("e2").epoch == "e1"
        redis.connection("SAVE")
        redis.restart()
        old = other.run
        reconnect(node, redis)
        reconnect(other, redis)
        other.run = old
        # Nobody has attached in this run: the value of the last one still passes.
        assert other.publish().seq == 1
        assert node.attach("e2").epoch == "e2"
        assert is_fenced(other)


def test_a_stop_in_order_loses_nothing_that_is_saved(tmp_path: Path) -> None:
    with RedisServer(tmp_path, save="3600 1") as server, attached(server) as node:
        sent: Numbered = node.publish(key="k")
        server.stop()
        server.start()
        reconnect(node, server)
        assert node.attach("e2", keep=True) == Attached("e1", 1, 1)
        again = node.publish(key="k")
        assert (again.kind, again.seq, again.epoch) == ("key", sent.seq, "e1")


def test_a_stopped_server_answers_when_it_goes_on(redis: RedisServer) -> None:
    with attached(redis) as node:
        redis.pause()
        node.redis.send(("PING",))
        redis.go_on()
        assert node.redis.receive() == b"PONG"
        assert node.publish().seq == 1


def test_a_server_that_does_not_start_is_an_error_with_its_log(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, appendfsync="sometimes")
    with pytest.raises(AssertionError, match=r"ended without READY=1(.|\n)*sometimes"), server:
        pass
