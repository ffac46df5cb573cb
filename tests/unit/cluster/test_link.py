"""One end of a link: what it sends, how much may wait, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.abstract import FileDescriptor
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from pushserver.cluster import link as links
from pushserver.cluster.link import Link
from pushserver.cluster.messages import Cleared, Done, FromAuthor, Leave, frame
from tests.unit.fakes.web import Trouble


class End:
    """An end of a link on a fake transport, and the calls that it made."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.lost = 0
        self.link = Link(FromAuthor, self._made, self._received, self._lost)
        self.transport = StringTransport()
        self.transport.abortConnection = self._abort  # type: ignore[method-assign]
        self.aborted = False
        self.link.makeConnection(self.transport)

    def _made(self, link: Link) -> None:
        link.send(b"first")

    def _received(self, message: Any) -> None:
        if message == Cleared("bad"):
            raise RuntimeError("no")
        self.messages.append(message)
        if message == Cleared("ignore"):
            self.link.ignore()
        if message == Cleared("hold"):
            self.link.pause_reading()

    def _lost(self) -> None:
        self.lost += 1

    def _abort(self) -> None:
        self.aborted = True


@pytest.fixture
def end() -> End:
    return End()


def test_link_sends_from_the_beginning(end: End) -> None:
    end.link.send(b" second")
    assert end.transport.value() == b"first second"


def test_messages_arrive_in_their_order(end: End) -> None:
    end.link.dataReceived(frame(Done(1)) + frame(Done(2))[:3])
    end.link.dataReceived(frame(Done(2))[3:])
    assert end.messages == [Done(1), Done(2)]


def test_bytes_of_an_end_that_is_ignored_are_not_decoded(end: End) -> None:
    end.link.dataReceived(frame(Done(1)) + frame(Cleared("ignore")) + frame(Done(2)) + b"\xff" * 9)
    end.link.dataReceived(b"\xff" * 100)
    assert end.messages == [Done(1), Cleared("ignore")]
    assert not end.aborted
    end.link.send(b" more")
    assert end.transport.value() == b"first more"


def test_frames_wait_in_their_order_while_the_other_end_does_not_read(end: End) -> None:
    end.transport.clear()
    end.link.pauseProducing()
    for text in (b"a", b"bc", b"d"):
        end.link.send(text)
    assert (end.transport.value(), end.link.unsent) == (b"", 4)
    end.link.resumeProducing()
    assert (end.transport.value(), end.link.unsent) == (b"abcd", 0)


def test_waiting_frames_stop_when_the_transport_is_full_again(
    end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []

    def write(data: bytes) -> None:
        written.append(data)
        end.link.pauseProducing()

    monkeypatch.setattr(end.transport, "write", write)
    end.link.pauseProducing()
    end.link.send(b"a")
    end.link.send(b"b")
    end.link.resumeProducing()
    assert written == [b"a"]
    end.link.resumeProducing()
    assert written == [b"a", b"b"]


def test_end_that_does_not_read_loses_the_link(
    end: End, monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    monkeypatch.setattr(links, "UNSENT_BYTES", 10)
    end.link.pauseProducing()
    # One frame of any size may wait: an image of a large history.
    end.link.send(b"x" * 100)
    assert not end.aborted
    end.link.send(b"y")
    assert end.aborted
    assert end.link.unsent == 0
    (text,) = trouble.take()
    assert text.endswith("100 bytes were not read")
    end.link.send(b"z")
    end.link.resumeProducing()
    assert end.transport.value() == b"first"


def test_answers_of_any_length_wait_for_an_end_that_asked_for_them(
    end: End, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "UNSENT_BYTES", 10)
    drained: list[bool] = []
    end.link.drained = lambda: drained.append(end.link.has_room_for_answers())
    end.link.answer(b" answer")
    end.link.pauseProducing()
    end.link.answer(b"a" * 5)
    assert end.link.has_room_for_answers()
    end.link.answer(b"b" * 100)
    assert not end.link.has_room_for_answers()
    end.link.send(b"c")
    end.link.send(b"d")
    assert (end.link.unsent, end.aborted) == (2, False)
    end.link.resumeProducing()
    assert end.transport.value() == b"first answer" + b"a" * 5 + b"b" * 100 + b"cd"
    assert drained == [True]
    end.link.abort()
    end.link.answer(b"late")
    assert end.transport.value().endswith(b"cd")


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1x", frame(Leave(["a"]))])
def test_end_that_breaks_the_protocol_loses_the_link(
    end: End, trouble: Trouble, data: bytes
) -> None:
    end.link.dataReceived(data)
    assert end.aborted
    assert len(trouble.take()) == 1


def test_failure_while_a_message_is_handled_ends_the_link(end: End, trouble: Trouble) -> None:
    end.link.dataReceived(frame(Done(1)) + frame(Cleared("bad")) + frame(Done(2)))
    assert end.messages == [Done(1)]
    assert end.aborted
    (text,) = trouble.take()
    assert text.endswith("its link ends: RuntimeError('no')")


def test_messages_behind_the_end_are_not_handled(end: End) -> None:
    end.link.abort()
    end.link.dataReceived(frame(Done(1)))
    assert end.messages == []


def test_owner_is_told_once_that_the_link_is_gone(end: End) -> None:
    end.link.pauseProducing()
    end.link.send(b"x")
    end.link.stopProducing()
    end.link.connectionLost(Failure(ConnectionDone()))
    assert (end.lost, end.link.unsent) == (1, 0)


def test_link_that_is_held_keeps_the_messages_that_have_come(end: End) -> None:
    hold, data = frame(Cleared("hold")), frame(Done(2)) + frame(Done(3))
    end.link.dataReceived(frame(Done(1)) + hold + data[:-1])
    assert end.messages == [Done(1), Cleared("hold")]
    assert end.transport.producerState == "paused"
    end.link.resume_reading()
    assert end.messages[2:] == [Done(2)]
    assert end.transport.producerState == "producing"
    end.link.resume_reading()
    end.link.dataReceived(data[-1:])
    assert end.messages[2:] == [Done(2), Done(3)]


def test_link_may_be_held_again_by_the_next_message(end: End) -> None:
    end.link.dataReceived(2 * frame(Cleared("hold")) + frame(Done(1)))
    assert len(end.messages) == 1
    end.link.resume_reading()
    assert len(end.messages) == 2
    assert end.transport.producerState == "paused"
    end.link.resume_reading()
    assert end.messages[-1] == Done(1)


def test_link_that_ended_while_it_was_held_does_not_go_on(end: End) -> None:
    end.link.dataReceived(frame(Cleared("hold")) + frame(Done(1)))
    end.link.abort()
    end.link.resume_reading()
    assert len(end.messages) == 1
    assert end.transport.producerState == "paused"


class Socket:
    """A socket that takes this many bytes of each `send`; None for an error."""

    def __init__(self) -> None:
        self.takes: int | None = 100
        self.sent: list[bytes] = []

    def send(self, data: bytes) -> int:
        if self.takes is None:
            raise BlockingIOError
        self.sent.append(data[: self.takes])
        return len(self.sent[-1])


class SocketTransport(StringTransport):
    """A transport that owns its socket, and has nothing in its buffers until a test says so."""

    dataBuffer = b""

    def __init__(self) -> None:
        super().__init__()
        self.socket = Socket()
        self._tempDataBuffer: list[bytes] = []


class DirectEnd:
    """An end that may send past its transport; a millisecond passes between its frames."""

    def __init__(self) -> None:
        self.now = 1.0
        self.link = Link(
            FromAuthor, lambda link: None, lambda message: None, lambda: None, self._seconds
        )
        self.transport = SocketTransport()
        self.link.makeConnection(self.transport)
        self.step = 0.001

    def _seconds(self) -> float:
        self.now += self.step
        return self.now

    def wrote(self) -> tuple[list[bytes], bytes]:
        """What the socket took, and what the transport got."""
        return self.transport.socket.sent, self.transport.value()


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> DirectEnd:
    monkeypatch.setattr(links, "_OWN_SOCKET", (SocketTransport,))
    return DirectEnd()


def test_lone_frame_does_not_wait_for_the_reactor(direct: DirectEnd) -> None:
    direct.link.send(b"a")
    direct.link.send(b"b")
    assert direct.wrote() == ([b"a", b"b"], b"")


def test_frames_in_quick_succession_leave_together(direct: DirectEnd) -> None:
    direct.link.send(b"a")
    direct.step = 0.0
    direct.link.send(b"b")
    direct.link.send(b"c")
    assert direct.wrote() == ([b"a"], b"bc")


@pytest.mark.parametrize(("takes", "sent", "left"), [(2, [b"ab"], b"c"), (None, [], b"abc")])
def test_transport_gets_what_the_socket_does_not_take(
    direct: DirectEnd, takes: int | None, sent: list[bytes], left: bytes
) -> None:
    direct.transport.socket.takes = takes
    direct.link.send(b"abc")
    assert direct.wrote() == (sent, left)


@pytest.mark.parametrize("buffer", ["dataBuffer", "_tempDataBuffer"])
def test_frame_waits_behind_those_of_the_transport(direct: DirectEnd, buffer: str) -> None:
    setattr(direct.transport, buffer, b"earlier" if buffer == "dataBuffer" else [b"earlier"])
    direct.link.send(b"a")
    assert direct.wrote() == ([], b"a")


@pytest.mark.usefixtures("direct")
def test_link_without_a_clock_or_with_another_transport_uses_the_transport() -> None:
    plain = Link(FromAuthor, lambda link: None, lambda message: None, lambda: None)
    transport = SocketTransport()
    plain.makeConnection(transport)
    plain.send(b"a")
    assert (transport.socket.sent, transport.value()) == ([], b"a")
    other = Link(FromAuthor, lambda link: None, lambda message: None, lambda: None, lambda: 1.0)
    string = StringTransport()
    other.makeConnection(string)
    other.send(b"b")
    assert string.value() == b"b"


def test_transports_have_the_buffers_that_a_link_looks_at() -> None:
    transport: Any = FileDescriptor(reactor=object())  # type: ignore[arg-type]
    assert (transport.dataBuffer, transport._tempDataBuffer) == (b"", [])
    assert all(issubclass(kind, FileDescriptor) for kind in links._OWN_SOCKET)
