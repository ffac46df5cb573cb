from __future__ import annotations

import json
from typing import Any

import pytest

from pushserver.channels.channel import ChannelOptions
from pushserver.config.limits import Limits
from pushserver.hub.fanout import _Schedule
from pushserver.protocols.formats import HISTORY
from pushserver.sessions.long_poll import LongPoll
from pushserver.sessions.node import Node
from tests.unit.fakes.tools import EPOCH, Time, drive, make_node, publish
from tests.unit.fakes.web import Line, Response, Server

NOTHING = b"nothing\n"


class Request:
    """A waiting request and its answer."""

    def __init__(self, node: Node, seconds: float = 25.0, channel: str = "a"):
        self.bodies: list[bytes] = []
        self.failures: list[Exception] = []
        self.poll = LongPoll(node, channel, self.bodies.append, self.failures.append, NOTHING)
        drive(self.poll.wait(seconds))

    @property
    def answer(self) -> Any:
        [body] = self.bodies
        assert body.endswith(b"\n")
        return json.loads(body)

    @property
    def waits(self) -> bool:
        return not self.bodies


def is_empty(node: Node) -> bool:
    return not len(node.peers) and not node.hub.channels()


def test_next_publication_is_the_answer() -> None:
    node = make_node()
    publish(node, "a", 0)
    request = Request(node)
    assert request.waits
    publish(node, "b", 7)
    assert request.waits
    publish(node, "a", 1)
    publish(node, "a", 2)
    assert [publication["data"] for publication in request.answer["publications"]] == [1]
    assert (request.answer["offset"], request.answer["id"]) == (2, f"{EPOCH}:3")
    assert is_empty(node)


def test_request_without_a_publication_in_time_gets_an_empty_answer() -> None:
    time = Time()
    node = make_node(time=time)
    request = Request(node, 25)
    node.peers.tick(time.seconds() + 24)
    assert request.waits
    node.peers.tick(time.seconds() + 27)
    assert request.bodies == [NOTHING]
    assert is_empty(node)


@pytest.mark.parametrize("how", ["shut_down", "abort", "end", "insufficient"])
def test_every_other_end_is_an_empty_answer(how: str) -> None:
    node = make_node()
    request = Request(node)
    arguments = {"end": (3503, "go"), "insufficient": ("a",)}.get(how, ())
    getattr(request.poll, how)(*arguments)
    assert request.bodies == [NOTHING]
    assert is_empty(node)


def test_request_is_answered_once() -> None:
    node = make_node()
    request = Request(node)
    publish(node, "a")
    request.poll.shut_down()
    request.poll.send(b"x")
    assert request.poll.wake(0.0) is None
    assert len(request.bodies) == 1


def test_request_whose_client_leaves_after_the_answer_is_counted_once() -> None:
    node = make_node()
    request = Request(node)
    assert (node.metrics.opened, node.metrics.closed) == ({"long-poll": 1}, {})
    publish(node, "a")
    request.poll.leave()
    assert (node.metrics.opened, node.metrics.closed) == ({"long-poll": 1}, {"long-poll": 1})


def test_cancelled_request_is_not_answered() -> None:
    node = make_node()
    request = Request(node)
    request.poll.leave()
    publish(node, "a")
    assert request.waits
    assert is_empty(node)


def test_waiting_requests_share_one_encoding() -> None:
    node = make_node()
    requests = [Request(node) for _ in range(3)]
    assert {request.poll.format for request in requests} == {HISTORY}
    publish(node, "a", 5)
    bodies = [request.bodies[0] for request in requests]
    assert bodies[0] is bodies[1] is bodies[2]


def test_waiting_request_is_present_in_the_channel() -> None:
    node = make_node()
    request = Request(node)
    assert list(drive(node.presence.clients("a"))) == [request.poll.info.client]


class TestByHttp:
    @staticmethod
    def cursor(server: Server, seq: int) -> str:
        return f"{server.hub.history.epoch}:{seq}"

    @staticmethod
    def data(answer: Response) -> list[Any]:
        return [publication["data"] for publication in answer.json["publications"]]

    @staticmethod
    def begin(server: Server, query: str) -> Line:
        """A request that waits."""
        line = server.open(f"/channels/a?{query}")
        assert line.take() == b""
        return line

    def test_retained_publications_are_answered_at_once(self) -> None:
        server = Server()
        for n in range(3):
            server.publish("a", n)
        answer = server.get(f"/channels/a?wait=5&since={self.cursor(server, 1)}")
        assert self.data(answer) == [1, 2]
        assert (answer.json["offset"], answer.json["id"]) == (3, self.cursor(server, 3))
        assert server.is_empty()

    def test_limit_bounds_an_answer_at_once(self) -> None:
        server = Server()
        for n in range(3):
            server.publish("a", n)
        answer = server.get("/channels/a?since=oldest&wait=5&limit=1")
        assert self.data(answer) == [0]
        assert (answer.json["offset"], answer.json["id"]) == (1, self.cursor(server, 1))

    @pytest.mark.parametrize("since", ["now", "{}:0", "oldest"])
    def test_zero_limit_is_answered_at_once_with_the_position(self, since: str) -> None:
        server = Server()
        server.publish("b", 1)
        since = since.replace("{}", server.hub.history.epoch)
        answer = server.get(f"/channels/a?wait=5&limit=0&since={since}")
        assert (self.data(answer), answer.json["id"]) == ([], self.cursor(server, 1))
        assert server.is_empty()

    @pytest.mark.parametrize("limit", [1, 2, 3, 4])
    def test_limit_bounds_an_answer_that_waited(self, limit: int) -> None:
        server = Server()
        line = self.begin(server, f"wait=5&limit={limit}")
        [audience] = server.hub._audiences.values()
        # As when the audience rests: three publications are one batch.
        server.hub._fan_out._schedules[audience] = schedule = _Schedule(audience)
        schedule.rests_until = server.node.monotonic() + 1
        for n in range(3):
            server.publish("a", n)
        server.advance(1)
        answer = line.response()
        expected = [0, 1, 2][:limit]
        assert self.data(answer) == expected
        position = (len(expected), self.cursor(server, len(expected)))
        assert (answer.json["offset"], answer.json["id"]) == position
        rest = server.get(f"/channels/a?since={answer.json['id']}")
        assert self.data(rest) == [0, 1, 2][limit:]

    def test_answer_is_a_history_object(self) -> None:
        server = Server()
        line = self.begin(server, "wait=5")
        server.publish("a", 7)
        answer = line.response()
        assert (answer.status, answer["cache-control"]) == (200, "no-store")
        assert self.data(answer) == [7]
        assert answer.json == server.get("/channels/a").json

    @pytest.mark.parametrize("since", ["now", "{}"])
    def test_empty_answer_has_the_same_cursor(self, since: str) -> None:
        server = Server()
        server.publish("a", 1)
        server.publish("b", 2)
        since = since.replace("{}", self.cursor(server, 1))
        line = self.begin(server, f"wait=5&since={since}")
        server.advance(4)
        assert line.take() == b""
        server.publish("b", 3)
        server.advance(2)
        answer = line.response()
        expected = self.cursor(server, 2) if since == "now" else since
        assert (self.data(answer), answer.json["id"]) == ([], expected)
        assert "reason" not in answer.json
        assert answer.json["offset"] == 1
        line.vanish()
        assert server.is_empty()

    def test_reader_that_polls_repeatedly_misses_nothing(self) -> None:
        server = Server()
        data: list[Any] = []
        since = "now"
        for n in range(8):
            line = server.open(f"/channels/a?wait=5&since={since}")
            # Some are published between two polls, some in another channel, sometimes none.
            server.publish("b")
            for m in range(n % 4):
                server.publish("a", [n, m])
            server.advance(6)
            answer = line.response()
            data += self.data(answer)
            since = answer.json["id"]
        data += self.data(server.get(f"/channels/a?since={since}"))
        assert data == [[n, m] for n in range(8) for m in range(n % 4)]

    @pytest.mark.parametrize(
        ("since", "reason"), [("other:3", "epoch"), ("{}:9", "ahead"), ("{}:1", "evicted")]
    )
    def test_position_that_cannot_be_resumed_is_answered_at_once(
        self, since: str, reason: str
    ) -> None:
        server = Server(options=ChannelOptions(history_size=2))
        for n in range(5):
            server.publish("a", n)
        since = since.replace("{}", server.hub.history.epoch)
        answer = server.get(f"/channels/a?wait=5&since={since}")
        assert self.data(answer) == []
        assert (answer.json["recovered"], answer.json["reason"]) == (False, reason)
        assert (answer.json["offset"], answer.json["id"]) == (5, self.cursor(server, 5))
        assert server.is_empty()

    def test_reader_that_leaves_is_forgotten(self) -> None:
        server = Server()
        self.begin(server, "wait=5").vanish()
        assert server.is_empty()

    @pytest.mark.parametrize("query", ["wait=0", ""])
    def test_zero_wait_is_answered_at_once(self, query: str) -> None:
        assert self.data(Server().get(f"/channels/a?{query}")) == []

    def test_head_does_not_wait(self) -> None:
        assert Server().get("/channels/a?wait=5", "HEAD").status == 200

    def test_stopping_server_answers_waiting_requests(self) -> None:
        server = Server()
        line = self.begin(server, "wait=5")
        for peer in server.node.peers:
            peer.shut_down()
        assert self.data(line.response()) == []

    def test_longest_wait_is_a_setting(self) -> None:
        server = Server(Limits(wait_seconds=7))
        self.begin(server, "wait=7").vanish()
        status, message = server.get("/channels/a?wait=8").error
        assert (status, message) == (400, "wait=8: expected a whole number from 0 to 7")
