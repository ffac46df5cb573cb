"""The main process opens the sockets on which its workers listen, and accepts nothing."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import UNIXAddress
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from pushserver.errors import StartFailed
from pushserver.server.inherited import Inherited, inherited
from pushserver.server.ports import Ports
from pushserver.server.workers import holding as holding_module
from pushserver.server.workers.control import ALONE_SECONDS
from pushserver.server.workers.holding import LATE_SECONDS, Holding
from tests.unit.fakes.web import Trouble

SITE: Any = Factory()


@contextmanager
def held(
    text: str,
    workers: int = 2,
    holding: Holding | None = None,
    wrap: Any = None,
) -> Iterator[Ports]:
    """The ports of a main process for this endpoint."""
    reactor: Any = MemoryReactorClock()
    ports = Ports(reactor, SITE, wrap=wrap, holding=holding or Holding(reactor, workers))
    ports.listen(text)
    ports.privilegedStartService()
    ports.startService()
    try:
        yield ports
    finally:
        ports.stopService()
        reactor.advance(0)


def sockets_of(ports: Ports, workers: int = 2) -> list[socket.socket]:
    """The sockets of the first endpoint for each worker, as duplicates."""
    return [socket_of(ports, n) for n in range(1, workers + 1)]


def socket_of(ports: Ports, worker: int) -> socket.socket:
    (descriptor,) = ports.passed_to(worker)[0][1]
    return socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM)


def test_start_waits_for_the_end_of_workers_of_a_server_that_died(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as left:
        port, asked = left.getsockname()[1], []

        def left_worker(port: int) -> int | None:
            asked.append(port)
            if len(asked) == 3:
                left.close()
            # It is ending, and shows no files any more.
            return 7 if len(asked) < 3 else None

        monkeypatch.setattr(holding_module, "left_worker", left_worker)
        monkeypatch.setattr(holding_module, "owner", lambda port: "")
        monkeypatch.setattr(holding_module, "STEP_SECONDS", 0.01)
        with held(f"tcp:{port}:interface=127.0.0.1") as ports:
            assert ports.urls() == [f"http://127.0.0.1:{port}/"]
    assert asked == [port] * 3
    (line,) = trouble.take()
    assert f"port {port} is in use by a worker of a server that died (process 7)" in line


def test_start_waits_for_no_other_program(trouble: Trouble) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
        with pytest.raises(StartFailed, match="in use"), held(text):
            pass


def test_start_does_not_wait_for_the_program_that_was_faster(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble
) -> None:
    found = iter([7, None])
    monkeypatch.setattr(holding_module, "left_worker", lambda port: next(found))
    monkeypatch.setattr(holding_module, "owner", lambda port: "other (process 8)")
    monkeypatch.setattr(holding_module, "STEP_SECONDS", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as left:
        text = f"tcp:{left.getsockname()[1]}:interface=127.0.0.1"
        with pytest.raises(StartFailed, match="in use"), held(text):
            pass
    assert len(trouble.take()) == 1


def test_start_waits_for_a_limited_time(monkeypatch: pytest.MonkeyPatch, trouble: Trouble) -> None:
    monkeypatch.setattr(holding_module, "left_worker", lambda port: 7)
    monkeypatch.setattr(holding_module, "STEP_SECONDS", 3.0)
    waits: list[float] = []
    select = "pushserver.server.workers.holding.select.select"
    monkeypatch.setattr(select, lambda *waited: waits.append(waited[3]))
    with socket.create_server(("127.0.0.1", 0)) as left:
        text = f"tcp:{left.getsockname()[1]}:interface=127.0.0.1"
        with pytest.raises(StartFailed, match="in use"), held(text):
            pass
    assert sum(waits) == ALONE_SECONDS + LATE_SECONDS
    assert len(trouble.take()) == 1


def test_each_worker_has_a_socket_of_its_own_at_the_one_port() -> None:
    with held("tcp:0:interface=127.0.0.1", 3) as ports, ExitStack() as stack:
        sockets = [stack.enter_context(one) for one in sockets_of(ports, 3)]
        names = {one.getsockname() for one in sockets}
        assert len(names) == 1
        assert len({one.fileno() for one in sockets}) == 3
        address = names.pop()
        assert ports.urls() == [f"http://127.0.0.1:{address[1]}/"]
        for _ in range(60):
            stack.enter_context(socket.create_connection(address))
        accepted = [stack.enter_context(one.accept()[0]) for one in sockets]
        assert len(accepted) == 3


def test_no_connection_waits_at_the_socket_of_a_suspended_worker() -> None:
    with held("tcp:0:interface=127.0.0.1") as ports, ExitStack() as stack:
        second = stack.enter_context(socket_of(ports, 2))
        address = second.getsockname()

        def connect() -> None:
            for _ in range(20):
                stack.enter_context(socket.create_connection(address))

        def accepted(one: socket.socket) -> int:
            count = 0
            one.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    stack.enter_context(one.accept()[0])
                    count += 1
            return count

        ports.suspend(1)
        assert ports.urls() == [f"http://127.0.0.1:{address[1]}/"]
        connect()
        assert accepted(second) == 20
        # The last one is kept: the port would be free for other programs.
        ports.suspend(2)
        first = stack.enter_context(socket_of(ports, 1))
        connect()
        assert accepted(second) == 20
        ports.resume(1)
        connect()
        assert 0 < accepted(first) == 20 - accepted(second)


def test_port_of_another_server_with_workers_is_in_use() -> None:
    with held("tcp:0:interface=127.0.0.1") as first:
        port = first.urls()[0].rstrip("/").rpartition(":")[2]
        with pytest.raises(StartFailed, match=f"{port}.* in use"), held(f"127.0.0.1:{port}"):
            pass


def test_ports_are_free_after_the_stop() -> None:
    with held("tcp:0:interface=127.0.0.1") as first:
        address = first.urls()[0].removeprefix("http://").rstrip("/")
    with held(address):
        pass


def test_failed_bind_of_one_socket_closes_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []
    real = socket.socket.bind

    def bind(self: socket.socket, address: Any) -> None:
        opened.append(self)
        if len(opened) == 2:
            raise OSError(24, "Too many open files")
        real(self, address)

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(CannotListenError):
        Holding(MemoryReactorClock(), 3).listenTCP(0, None, interface="127.0.0.1")
    assert [one.fileno() for one in opened] == [-1, -1]


def test_unix_socket_is_one_for_all_workers(tmp_path: Path) -> None:
    path = tmp_path / "push.sock"
    with held(f"unix:{path}") as ports:
        assert ports.passed_to(1) == ports.passed_to(2)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_held_ports_do_not_count_as_closed(tmp_path: Path) -> None:
    with held(f"unix:{tmp_path}/push.sock") as ports, socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{tmp_path}/push.sock")
        assert [ports.closed() for _ in range(3)] == ["", "", ""]
        assert ports.count_closed() == 0


def test_sockets_that_earlier_workers_have_are_used_again() -> None:
    with held("tcp:0:interface=127.0.0.1") as first, ExitStack() as stack:
        left = dict(enumerate((stack.enter_context(one) for one in sockets_of(first)), 1))
        address = left[1].getsockname()
        first.stopService()
        holding = Holding(MemoryReactorClock(), 3, {n: [one] for n, one in left.items()})
        with held(f"127.0.0.1:{address[1]}", 3, holding) as second:
            again = [stack.enter_context(one) for one in sockets_of(second, 3)]
            assert {one.getsockname() for one in again} == {address}
            assert [holding.fits(number) for number in (1, 2, 3)] == [True, True, False]
            for number in (1, 2):
                inherited = second.passed_to(number)[0][1][0]
                assert inherited == left[number].fileno()


def test_unix_socket_that_earlier_workers_have_is_used_again(tmp_path: Path) -> None:
    path = str(tmp_path / "push.sock")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)
        one.listen()
        holding = Holding(MemoryReactorClock(), 2, {1: [one.dup()], 2: [one.dup()]})
        with held(f"unix:{path}", 2, holding) as ports, socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert ports.urls() == [f"unix:{path}"]
            assert [holding.fits(number) for number in (1, 2)] == [True, True]


def test_worker_that_listens_elsewhere_does_not_fit() -> None:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(("127.0.0.1", 0))
        left = {1: [], 2: [one.dup(), other.dup()], 3: [other.dup()], 4: [one.dup()]}
        holding = Holding(MemoryReactorClock(), 4, left)
        with held(f"127.0.0.1:{one.getsockname()[1]}", 4, holding):
            assert [holding.fits(number) for number in (1, 2, 3, 4)] == [False, False, False, True]
            holding.close_left()


def test_socket_of_systemd_fits_if_it_is_the_one_that_the_worker_has() -> None:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        holding = Holding(MemoryReactorClock(), 2, {1: [one.dup()], 2: [other.dup()]})
        port = holding.adoptStreamPort(one.fileno(), socket.AF_INET, SITE)
        assert [holding.fits(number) for number in (1, 2)] == [True, False]
        port.stopListening()
        holding.close_left()


def test_unix_socket_of_systemd_fits_and_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "push.sock"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))
        one.listen()
        holding = Holding(MemoryReactorClock(), 2, {1: [one.dup()], 2: [one.dup()]})
        [named] = inherited(
            holding, "systemd:name=http", [Inherited(os.dup(one.fileno()), "http")], lambda _: True
        )
        opened: list[IListeningPort] = []
        named.endpoint.listen(SITE).addCallback(opened.append)
        assert [holding.fits(number) for number in (1, 2)] == [True, True]
        assert [port.getHost() for port in opened] == [UNIXAddress(str(path))]
        opened[0].stopListening()
        assert path.exists()


def test_other_sockets_of_earlier_workers_are_closed() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        copy = one.dup()
        Holding(MemoryReactorClock(), 2, {1: [copy]}).close_left()
        assert copy.fileno() == -1


@pytest.mark.parametrize("wrap", [None, lambda factory: factory], ids=["plain", "proxy"])
def test_fork_of_the_main_process_does_not_keep_the_sockets(wrap: Any) -> None:
    with held("tcp:0:interface=127.0.0.1", wrap=wrap) as ports:
        descriptors = [ports.passed_to(n)[0][1][0] for n in (1, 2)]
        child = os.fork()
        if not child:
            os._exit(sum(is_open(one) for one in descriptors))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert all(map(is_open, descriptors))


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
