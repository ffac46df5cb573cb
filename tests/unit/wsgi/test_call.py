"""One call of an application, in the thread of the test, on an answer that keeps its pieces."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import pytest

from pushserver.wsgi.answer import PIECE, Answer, Disconnected
from pushserver.wsgi.call import Call
from pushserver.wsgi.errors import Errors
from pushserver.wsgi.head import Head
from pushserver.wsgi.interface import Application, Environ

OK = "200 OK"


class Pieces:
    """An answer, whose client leaves after `most` pieces."""

    def __init__(self, most: int = 1_000):
        self.gone = False
        self.sent: list[tuple[int, bytes]] = []
        self._most = most

    def send(self, head: Head | None, data: bytes) -> None:
        if len(self.sent) == self._most:
            self.gone = True
            raise Disconnected
        self.sent.append((0 if head is None else head.status, data))

    @property
    def body(self) -> bytes:
        return b"".join(data for _, data in self.sent)


class Result:
    """The iterable of an application, which counts its closes."""

    def __init__(self, *pieces: Any):
        self.closed = 0
        self.left = [*pieces]

    def __iter__(self) -> Iterator[bytes]:
        while self.left:
            piece = self.left.pop(0)
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def close(self) -> None:
        self.closed += 1


def call(application: Application, answer: Pieces, method: str = "GET") -> Call:
    environ: Environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": "/a",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": Errors(),
    }
    return Call(application, environ, cast(Answer, answer), lambda: 1.0)


def answering(result: Iterable[bytes], *headers: tuple[str, str], status: str = OK) -> Application:
    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response(status, [*headers])
        return result

    return application


class TestTheBody:
    def test_is_sent_in_its_pieces_with_the_head_before_the_first(self) -> None:
        answer, result = Pieces(), Result(b"", b"a", b"", b"b")
        made = call(answering(result), answer)
        made()
        assert answer.sent == [(200, b"a"), (0, b"b")]
        assert made.unsent is None
        assert result.closed == 1

    def test_long_piece_is_sent_in_parts(self) -> None:
        answer = Pieces()
        call(answering([b"x" * (PIECE + 1)]), answer)()
        assert [len(data) for _, data in answer.sent] == [PIECE, 1]

    @pytest.mark.parametrize("pieces", [[], [b""], [b"", b""]])
    def test_without_a_body_the_head_is_left_for_the_end(self, pieces: list[bytes]) -> None:
        answer = Pieces()
        made = call(answering(pieces), answer)
        made()
        assert answer.sent == []
        assert made.unsent is not None
        assert made.unsent.status == 200

    def test_generator_may_start_the_response_itself(self) -> None:
        def application(environ: Environ, start_response: Any) -> Iterator[bytes]:
            start_response(OK, [])
            yield b"a"

        answer = Pieces()
        call(application, answer)()
        assert answer.sent == [(200, b"a")]

    def test_write_sends_before_the_iterable(self) -> None:
        def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
            write = start_response(OK, [])
            write(b"a")
            write(b"b")
            return [b"c"]

        answer = Pieces()
        call(application, answer)()
        assert answer.sent == [(200, b"a"), (0, b"b"), (0, b"c")]

    @pytest.mark.parametrize(
        ("method", "status"), [("HEAD", OK), ("GET", "204 No Content"), ("GET", "304 Not Modified")]
    )
    def test_answer_without_a_body_ends_with_its_first_piece(
        self, method: str, status: str
    ) -> None:
        answer, result = Pieces(), Result(*[b"a"] * 100)
        made = call(answering(result, ("Content-Length", "100"), status=status), answer, method)
        made()
        assert answer.sent == []
        assert made.unsent is not None
        assert len(result.left) == 99
        assert result.closed == 1


class TestTheContentLength:
    def test_body_is_cut_there_and_the_application_is_told(self) -> None:
        answer, result = Pieces(), Result(b"ab", b"cd")
        with pytest.raises(ValueError, match="more than its Content-Length of 3 bytes"):
            call(answering(result, ("Content-Length", "3")), answer)()
        assert answer.body == b"abc"
        assert result.closed == 1

    def test_body_of_this_length_is_sent(self) -> None:
        answer = Pieces()
        call(answering([b"ab", b"c", b""], ("Content-Length", "3")), answer)()
        assert answer.body == b"abc"

    @pytest.mark.parametrize("pieces", [[], [b"ab"]])
    def test_shorter_body_is_an_error(self, pieces: list[bytes]) -> None:
        with pytest.raises(ValueError, match=r"has \d bytes, and its Content-Length is 3"):
            call(answering(pieces, ("Content-Length", "3")), Pieces())()


class TestErrors:
    @pytest.mark.parametrize("when", ["before", "after", "in the iterable", "on close"])
    def test_exception_of_the_application_is_raised(self, when: str) -> None:
        result = Result(b"a", ValueError("wrong"))
        if when == "on close":
            result = Result(b"a")
            vars(result)["close"] = lambda: 1 / 0

        def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
            if when == "before":
                raise ValueError("wrong")
            start_response(OK, [])
            if when == "after":
                raise ValueError("wrong")
            return result

        with pytest.raises(ZeroDivisionError if when == "on close" else ValueError):
            call(application, Pieces())()
        assert result.closed == (when == "in the iterable")

    @pytest.mark.parametrize("piece", ["text", 1, None, bytearray(b"a"), memoryview(b"a")])
    def test_other_pieces_than_bytes_are_errors(self, piece: Any) -> None:
        result = Result(piece)
        with pytest.raises(TypeError, match=r"a part of the body is .*, expected bytes"):
            call(answering(result), Pieces())()
        assert result.closed == 1

    def test_response_that_is_not_started_is_an_error(self) -> None:
        with pytest.raises(AssertionError, match="before start_response was called"):
            call(lambda environ, start_response: [b"a"], Pieces())()
        with pytest.raises(AssertionError, match="did not call start_response"):
            call(lambda environ, start_response: [], Pieces())()

    def test_result_that_is_no_iterable_is_an_error(self) -> None:
        with pytest.raises(TypeError, match="not iterable"):
            call(answering(cast(Any, None)), Pieces())()

    @pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()])
    def test_iterable_is_closed_after_every_exception(self, error: BaseException) -> None:
        result = Result(error)
        with pytest.raises(type(error)):
            call(answering(result), Pieces())()
        assert result.closed == 1

    def test_input_is_closed_after_every_call(self) -> None:
        made = call(lambda environ, start_response: [b"a"], Pieces())
        with pytest.raises(AssertionError):
            made()
        assert made._environ["wsgi.input"].closed


class TestAStartThatIsRepeated:
    def application(self, first: bytes, again: Callable[[Any], object]) -> Application:
        def application(environ: Environ, start_response: Any) -> Iterator[bytes]:
            start_response(OK, [])
            yield first
            again(start_response)
            yield b"b"

        return application

    @pytest.mark.parametrize("first", [b"", b"a"])
    def test_is_an_error_without_an_exception(self, first: bytes) -> None:
        again = self.application(first, lambda start: start("500 No", []))
        with pytest.raises(AssertionError, match="start_response was called twice"):
            call(again, Pieces())()

    def failed(self, start: Any) -> None:
        try:
            raise ValueError("wrong")
        except ValueError:
            start("500 No", [], sys.exc_info())

    def test_replaces_the_head_that_was_not_sent(self) -> None:
        answer = Pieces()
        call(self.application(b"", self.failed), answer)()
        assert answer.sent == [(500, b"b")]

    def test_raises_the_exception_after_the_head_was_sent(self) -> None:
        answer = Pieces()
        with pytest.raises(ValueError, match="wrong"):
            call(self.application(b"a", self.failed), answer)()
        assert answer.sent == [(200, b"a")]


class TestAClientThatLeaves:
    def test_ends_the_iteration_and_the_iterable_is_closed(self) -> None:
        answer, result = Pieces(2), Result(*[b"a"] * 100)
        call(answering(result), answer)()
        assert len(answer.sent) == 2
        assert len(result.left) == 97
        assert result.closed == 1

    def test_is_noticed_between_empty_pieces(self) -> None:
        answer = Pieces()

        def leave() -> Iterator[bytes]:
            while True:
                answer.gone = True
                yield b""

        call(answering(leave()), answer)()
        assert answer.sent == []

    def test_is_an_exception_of_write(self) -> None:
        seen: list[BaseException] = []

        def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
            write = start_response(OK, [])
            try:
                while True:
                    write(b"a")
            except ConnectionError as error:
                seen.append(error)
                raise

        call(application, Pieces(2))()
        assert [str(error) for error in seen] == ["the client has disconnected"]
