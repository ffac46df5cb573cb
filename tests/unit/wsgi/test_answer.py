"""The pieces of an answer on their way, in one thread, on a request that keeps them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from pushserver.wsgi.answer import AHEAD_BYTES, PIECE, Answer, Disconnected, Memory
from pushserver.wsgi.head import make_head
from tests.unit.fakes.wsgi import WAIT_SECONDS

HEAD = make_head("200 OK", [("Content-Type", "text/plain")])


class Request:
    """The methods of a request that an answer calls."""

    def __init__(self) -> None:
        self.responseHeaders = Headers({b"content-security-policy": [b"default-src 'none'"]})
        self.written: list[bytes] = []
        self.producer: Answer | None = None
        self.ended = ""
        self.full_after = 1_000_000
        self._finished: list[Deferred[None]] = []

    def notifyFinish(self) -> Deferred[None]:
        self._finished.append(Deferred())
        return self._finished[-1]

    def setResponseCode(self, code: int, message: bytes) -> None:
        self.written.append(b"%d" % code)

    def registerProducer(self, producer: Answer, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        assert not self.ended
        self.written.append(data)
        if len(self.written) > self.full_after and self.producer is not None:
            self.producer.pauseProducing()

    def finish(self) -> None:
        assert self.producer is None
        self._end("finished")

    def loseConnection(self) -> None:
        self._end("lost")

    def _end(self, how: str) -> None:
        self.ended = how
        for each in self._finished:
            each.callback(None)


class Bench:
    """An answer, whose thread is that of the test; calls for the reactor are made at once."""

    def __init__(self, most: int = 10 * AHEAD_BYTES) -> None:
        self.request = Request()
        self.memory = Memory(most)
        self.answer = Answer(cast(Any, self.request), cast(Any, self), self.memory)

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)

    def fill(self, size: int = PIECE) -> int:
        """Send pieces to a client that does not read, until `send` would wait; their number."""
        self.answer.send(HEAD, b"a")
        self.answer.pauseProducing()
        count = 0
        while not self.answer._is_too_far_ahead:
            self.answer.send(None, b"x" * size)
            count += 1
        return count


def test_pieces_are_written_in_their_order_and_then_the_end() -> None:
    bench = Bench()
    bench.answer.send(HEAD, b"a")
    bench.answer.send(None, b"b")
    bench.answer.finish(None)
    assert bench.request.written == [b"200", b"a", b"b"]
    assert bench.request.ended == "finished"
    assert bench.request.responseHeaders == Headers({b"content-type": [b"text/plain"]})


def test_head_alone_is_an_answer() -> None:
    bench = Bench()
    bench.answer.finish(HEAD)
    assert (bench.request.written, bench.request.ended) == ([b"200"], "finished")


class TestAClientThatDoesNotRead:
    def test_has_a_bounded_number_of_bytes_waiting(self) -> None:
        bench = Bench()
        assert bench.fill() == AHEAD_BYTES // PIECE
        assert bench.request.written == [b"200", b"a"]
        assert AHEAD_BYTES <= bench.memory.bytes < AHEAD_BYTES + PIECE

    def test_a_small_piece_counts_with_its_memory(self) -> None:
        assert Bench().fill(1) < 20_000

    def test_gets_them_when_it_reads_and_the_thread_may_continue(self) -> None:
        bench = Bench()
        count = bench.fill()
        bench.request.full_after = len(bench.request.written)
        bench.answer.resumeProducing()
        assert len(bench.request.written) == 3  # The first one fills it again.
        assert not bench.answer._is_too_far_ahead
        bench.request.full_after = 1_000_000
        bench.answer.resumeProducing()
        assert len(bench.request.written) == 2 + count
        assert bench.memory.bytes == 0

    def test_lets_the_thread_wait_until_it_reads(self) -> None:
        bench = Bench()
        bench.fill()
        waits, sent = threading.Event(), threading.Event()

        class Watched(threading.Condition):
            def wait(self, timeout: float | None = None) -> bool:
                waits.set()
                return super().wait(timeout)

        def send() -> None:
            bench.answer.send(None, b"b")
            sent.set()

        bench.answer._changed = Watched()
        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        assert waits.wait(WAIT_SECONDS)
        assert not sent.is_set()
        bench.answer.resumeProducing()
        thread.join(WAIT_SECONDS)
        assert sent.is_set()

    def test_gets_the_end_after_them(self) -> None:
        bench = Bench()
        bench.fill()
        bench.answer.finish(None)
        assert bench.request.ended == ""
        bench.answer.resumeProducing()
        assert bench.request.ended == "finished"

    def test_has_less_room_while_others_use_the_memory(self) -> None:
        bench = Bench(most=3 * PIECE)
        bench.memory.bytes += PIECE
        assert bench.fill() == 2
        bench.answer.leave()
        assert bench.memory.bytes == PIECE


def test_nothing_is_sent_to_a_client_that_has_left() -> None:
    bench = Bench()
    bench.answer.send(HEAD, b"a")
    bench.answer.stopProducing()
    with pytest.raises(Disconnected):
        bench.answer.send(None, b"b")
    bench.answer.finish(None)
    bench.answer.fail()
    assert (bench.request.written, bench.request.ended) == ([b"200", b"a"], "")


def test_failure_after_the_head_ends_the_connection() -> None:
    bench = Bench()
    bench.answer.send(HEAD, b"a")
    bench.answer.fail()
    assert bench.request.ended == "lost"
    assert bench.answer.gone
