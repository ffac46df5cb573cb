"""One call of a WSGI application, in a thread (PEP 3333)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pushserver.wsgi.answer import PIECE, Answer, Disconnected
from pushserver.wsgi.file_wrapper import FileRest, FileWrapper
from pushserver.wsgi.head import Head, make_head
from pushserver.wsgi.interface import Application, Environ


class Call:
    """Calls the application once, iterates over its answer, and closes that.

    Calling the object raises the exceptions of the application, and AssertionError, TypeError and
    ValueError if it breaks a rule of PEP 3333. `unsent` is the head that the end of the answer has
    to send, if no piece was sent before.
    """

    def __init__(
        self,
        application: Application,
        environ: Environ,
        answer: Answer,
        monotonic: Callable[[], float],
    ):
        self._monotonic = monotonic
        self._application = application
        self._environ = environ
        self._answer = answer
        self._head: Head | None = None
        self._sent = False
        self._is_head = environ["REQUEST_METHOD"] == "HEAD"
        self._length = 0
        self.began: float | None = None
        """The start of the call on the steady clock; None while it waits for a thread."""

    @property
    def unsent(self) -> Head | None:
        """The head, if it was not sent."""
        return None if self._sent else self._head

    def __str__(self) -> str:
        return f"{self._environ['REQUEST_METHOD'][:20]} {self._environ['PATH_INFO'][:200]}"

    def __call__(self) -> None:
        self.began = self._monotonic()
        body = self._environ["wsgi.input"]
        try:
            result = self._application(self._environ, self._start_response)
            if isinstance(result, FileWrapper) and self._may_hand_over(result):
                self._hand_over(result)
                return
            try:
                self._send_all(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except Disconnected:
            # Also one that `write` has raised in the application.
            pass
        finally:
            self._environ["wsgi.errors"].flush()
            body.close()

    def _send_all(self, result: Iterable[bytes]) -> None:
        for data in result:
            self._write(data)
            if self._answer.gone:
                return
            if data and self._has_no_body:
                # The rest of the body would be dropped as well.
                return
        self._check_end()

    def _may_hand_over(self, file: FileWrapper) -> bool:
        return self._head is not None and not self._has_no_body and file.is_regular()

    def _hand_over(self, file: FileWrapper) -> None:
        """Let the reactor's thread send a file, so that a slow client does not have this one."""
        head = self._head
        assert head is not None
        left = None if head.length is None else head.length - self._length
        rest = FileRest(file, left)
        try:
            self._answer.send_file(self.unsent, rest)
        except Disconnected:
            rest.close()
        self._sent = True

    def _start_response(
        self, status: str, headers: Any, exc_info: Any = None
    ) -> Callable[[bytes], object]:
        if exc_info is not None:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                # A traceback that refers to its own frame is not freed.
                exc_info = None
        elif self._head is not None:
            raise AssertionError(
                "start_response was called twice, the second time without an error"
            )
        self._head = make_head(status, headers)
        return self._write

    @property
    def _has_no_body(self) -> bool:
        return self._head is not None and (self._is_head or not self._head.has_body)

    def _write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"a part of the body is {data!r:.80}, expected bytes")
        if not data:
            return
        head = self._head
        if head is None:
            raise AssertionError("a part of the body came before start_response was called")
        if self._has_no_body:
            return
        left = None if head.length is None else head.length - self._length
        self._length += len(data)
        self._send(head, data if left is None else data[:left])
        if left is not None and left < len(data):
            raise ValueError(f"the body has more than its Content-Length of {head.length} bytes")

    def _send(self, head: Head, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            first = None if self._sent else head
            self._sent = True
            self._answer.send(first, data[start : start + PIECE])

    def _check_end(self) -> None:
        if self._head is None:
            raise AssertionError("the application did not call start_response")
        length = self._head.length
        if length is not None and self._length < length and not self._has_no_body:
            raise ValueError(
                f"the body has {self._length} bytes, and its Content-Length is {length}"
            )
