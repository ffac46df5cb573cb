from __future__ import annotations

import errno
import os
import resource
import socket
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol

from pushserver.errors import StartFailed
from pushserver.server import listener as listener_module
from pushserver.server.listener import ACCEPTS, SHARED_ACCEPTS, Listener
from tests.unit.fakes.web import Trouble


class Port:
    """A port that listens."""

    def __init__(self, address: IAddress):
        self.address = address
        self.stopped = 0

    def getHost(self) -> IAddress:
        return self.address

    def stopListening(self) -> Deferred[None]:
        self.stopped += 1
        return succeed(None)


class Endpoint:
    """An endpoint that listens, or fails with the given error."""

    def __init__(self, result: Any):
        self.result = result
        self.listened = 0

    def listen(self, factory: object) -> Deferred[Any]:
        self.listened += 1
        return fail(self.result) if isinstance(self.result, Exception) else succeed(self.result)


def make(result: Any, text: str = "tcp:8080") -> tuple[Listener, Endpoint]:
    endpoint: Any = Endpoint(result)
    return Listener(endpoint, text, Factory()), endpoint


TCP = IPv4Address("TCP", "127.0.0.1", 8080)


def test_privileged_start_listens_once() -> None:
    listener, endpoint = make(Port(TCP))
    listener.privilegedStartService()
    listener.startService()
    assert endpoint.listened == 1
    assert listener.running


def test_plain_start_listens() -> None:
    listener, endpoint = make(Port(TCP))
    listener.startService()
    assert endpoint.listened == 1


def test_busy_port_ends_the_start_with_one_line() -> None:
    listener, _ = make(CannotListenError("127.0.0.1", 8080, OSError(98, "Address in use")))
    with pytest.raises(StartFailed) as failed:
        listener.privilegedStartService()
    text = str(failed.value)
    assert text.startswith("pushserver: cannot listen on tcp:8080: ")
    assert "in use" in text
    assert "\n" not in text
    assert isinstance(failed.value, SystemExit)


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("8080", OSError(errno.EADDRINUSE, "No"), ["in use; end that", "--port "]),
        ("tcp:80", OSError(errno.EACCES, "No"), ["may not listen on port 1", "--port 8080"]),
        ("tcp:80", OSError(errno.EADDRNOTAVAIL, "No"), ["127.0.0.1 is no address of this"]),
        ("x.y:80", socket.gaierror(-2, "No"), ["127.0.0.1 is no address of this machine"]),
        ("tcp:80", OSError(errno.ENOBUFS, "No room"), ["No room"]),
        ("unix:/run/push", OSError(errno.EADDRINUSE, "No"), ["No"]),
    ],
)
def test_message_has_the_reason_and_a_remedy(
    text: str, reason: OSError, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "owner", lambda port: "")
    listener, _ = make(CannotListenError("127.0.0.1", 1, reason), text)
    with pytest.raises(StartFailed) as failed:
        listener.privilegedStartService()
    message = str(failed.value)
    assert message.startswith(f"pushserver: cannot listen on {text}: ")
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_message_tells_of_a_worker_of_a_server_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "left_worker", lambda port: 7)
    listener, _ = make(CannotListenError("127.0.0.1", 1, OSError(errno.EADDRINUSE, "No")))
    text = r"a worker of a server that died \(process 7\); it ends by itself within 10 s"
    with pytest.raises(StartFailed, match=text):
        listener.privilegedStartService()


def test_message_of_a_busy_port_names_its_program() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        error = CannotListenError(
            "127.0.0.1", busy.getsockname()[1], OSError(errno.EADDRINUSE, "No")
        )
        listener, _ = make(error)
        with pytest.raises(
            StartFailed, match=rf"in use by \S.* \(process {os.getpid()}\); end that"
        ):
            listener.privilegedStartService()


def test_failed_start_has_status_1() -> None:
    # Python's exit prints a code that is a text, and exits with 1.
    assert isinstance(StartFailed("no").code, str)


def test_stop_stops_the_port_once() -> None:
    port = Port(TCP)
    listener, _ = make(port)
    for _ in range(2):
        listener.stopService()
    listener.startService()
    for _ in range(2):
        listener.stopService()
    assert port.stopped == 1


@pytest.mark.parametrize(
    ("text", "address", "url"),
    [
        ("tcp:8080", IPv4Address("TCP", "0.0.0.0", 8080), "http://localhost:8080/"),
        ("tcp:0", IPv4Address("TCP", "127.0.0.1", 43210), "http://127.0.0.1:43210/"),
        ("tcp6:8080", IPv6Address("TCP", "::", 8080), "http://localhost:8080/"),
        ("tcp6:8080", IPv6Address("TCP", "::1", 8080), "http://[::1]:8080/"),
        ("tcp:0", IPv6Address("TCP", "fe80::1%eth0", 8080), "http://[fe80::1%25eth0]:8080/"),
        ("unix:/run/push", UNIXAddress("/run/push"), "unix:/run/push"),
    ],
)
def test_url_is_for_a_browser_on_this_machine(text: str, address: IAddress, url: str) -> None:
    listener, _ = make(Port(address), text)
    assert listener.url() == text
    listener.startService()
    assert listener.url() == url


def test_url_of_a_port_with_a_certificate_is_https() -> None:
    endpoint: Any = Endpoint(Port(TCP))
    certificate: Any = object()
    listener = Listener(endpoint, "systemd:name=https", Factory(), certificate=certificate)
    listener.startService()
    assert listener.url() == "https://127.0.0.1:8080/"


@pytest.mark.upstream
@pytest.mark.parametrize(("is_shared", "at_once"), [(False, ACCEPTS), (True, SHARED_ACCEPTS)])
def test_turn_accepts_a_bounded_number_of_connections(is_shared: bool, at_once: int) -> None:
    accepted: list[object] = []

    class Counted(Protocol):
        """Counts itself."""

        def connectionMade(self) -> None:
            accepted.append(self)

    reactor: Any = EPollReactor()
    listener = Listener(
        TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
        "tcp:0",
        Factory.forProtocol(Counted),
        is_shared=is_shared,
    )
    listener.privilegedStartService()
    port: Any = listener._port
    clients = [
        socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(3 * at_once)
    ]
    for turns in range(1, 4):
        port.doRead()
        assert len(accepted) == turns * at_once
    for client in clients:
        client.close()
    reactor.disconnectAll()
    reactor._poller.close()


@pytest.mark.upstream
def test_connections_for_which_no_file_is_left_have_one_line_in_the_log(trouble: Trouble) -> None:
    reactor: Any = EPollReactor()
    listener = Listener(
        TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
        "tcp:0",
        Factory.forProtocol(Protocol),
    )
    listener.privilegedStartService()
    port: Any = listener._port
    address = ("127.0.0.1", port.getHost().port)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for _ in range(2):
        clients = [socket.create_connection(address) for _ in range(5)]
        # No number below the bound is free.
        highest, taken = max(map(int, os.listdir("/proc/self/fd"))), [os.dup(0)]
        while taken[-1] <= highest:
            taken.append(os.dup(0))
        most = taken[-1] + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        try:
            for _ in clients:
                port.doRead()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in taken:
            os.close(file)
        for client in clients:
            client.settimeout(10)
            assert client.recv(1) == b""
            client.close()
    (line,) = trouble.take()
    assert f"(EMFILE), and 5 were closed: the process may have {most} open" in line
    reactor.disconnectAll()
    reactor._poller.close()


class RealPort(Port):
    """A port with a real socket, which accepts when `doRead` is called."""

    numberAccepts = 100

    def __init__(self) -> None:
        super().__init__(TCP)
        self.socket = socket.create_server(("127.0.0.1", 0))

    def doRead(self) -> None:
        self.socket.accept()[0].close()


class TestTheSelfCheck:
    def open(self) -> tuple[Listener, RealPort]:
        port = RealPort()
        listener, _ = make(port)
        listener.privilegedStartService()
        return listener, port

    def test_idle_port_has_no_problem(self) -> None:
        listener, port = self.open()
        with port.socket:
            assert [listener.problem() for _ in range(3)] == [""] * 3

    def test_connection_that_waits_from_one_check_to_the_next_is_one(self) -> None:
        listener, port = self.open()
        with port.socket, socket.create_connection(port.socket.getsockname()):
            assert [listener.problem() for _ in range(3)] == [
                "",
                "tcp:8080 accepts no connections",
                "tcp:8080 accepts no connections",
            ]
            port.doRead()
            assert listener.problem() == ""

    def test_port_that_accepts_under_load_has_none(self) -> None:
        listener, port = self.open()
        with port.socket:
            address = port.socket.getsockname()
            waiting = [socket.create_connection(address) for _ in range(4)]
            for _ in range(3):
                assert listener.problem() == ""
                port.doRead()
            assert listener.problem() == ""
            assert listener.problem() == "tcp:8080 accepts no connections"
            for client in waiting:
                client.close()

    def test_socket_that_was_closed_is_one(self) -> None:
        listener, port = self.open()
        port.socket.close()
        assert listener.problem() == "tcp:8080 is closed: Bad file descriptor"

    def test_socket_that_does_not_listen_is_one(self) -> None:
        listener, port = self.open()
        port.socket.close()
        with socket.socket() as port.socket:
            assert listener.problem() == "tcp:8080 does not listen"

    def test_port_that_was_stopped_is_one(self) -> None:
        listener, port = self.open()
        with port.socket:
            listener.stopService()
            assert listener.problem() == "tcp:8080 is closed"

    def test_port_without_a_socket_has_none(self) -> None:
        listener, _ = make(Port(TCP))
        listener.privilegedStartService()
        assert listener.problem() == ""
