from __future__ import annotations

import errno
import gc
import os
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from pushserver.web import owner


@pytest.fixture(params=["127.0.0.1", "::1", "::"])
def ends(request: pytest.FixtureRequest) -> Any:
    """A real connection over loopback: our end's addresses, as Twisted has them."""
    host = request.param
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        if host == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1" if host == "::" else host, port)):
            ours, _ = listener.accept()
            with ours:
                kind: Any = IPv6Address if ":" in host else IPv4Address
                yield (
                    kind("TCP", *ours.getsockname()[:2]),
                    kind("TCP", *ours.getpeername()[:2]),
                )


def asked(here: Any, there: Any, transport: Any = None) -> Any:
    return SimpleNamespace(
        getHost=lambda: here,
        getClientAddress=lambda: there,
        channel=SimpleNamespace(transport=transport),
    )


def test_program_of_our_user_is_own(ends: Any) -> None:
    assert owner.is_own(asked(*ends)) is True


def test_program_of_another_user_is_not_own(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "tcp_user", lambda *_: 33)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert owner.is_own(asked(*ends)) is False
    monkeypatch.setattr(os, "geteuid", lambda: 33)
    assert owner.is_own(asked(*ends)) is True


def test_program_of_root_is_own(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "tcp_user", lambda *_: 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert owner.is_own(asked(*ends)) is True


def test_user_is_that_of_the_other_end(ends: Any) -> None:
    here, there = (address.host.removeprefix("::ffff:") for address in ends)
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    assert owner.tcp_user(family, (there, ends[1].port), (here, ends[0].port)) == os.getuid()


def test_owner_is_known_when_no_file_is_left(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*_: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    owner.prepare()
    monkeypatch.setattr(socket, "socket", no_file)
    assert owner.is_own(asked(*ends)) is True


def test_fork_asks_by_a_socket_of_its_own(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.prepare()
    ours = owner._kernel._file
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert owner.is_own(asked(*ends)) is True
    monkeypatch.undo()
    assert owner._kernel._file != ours
    os.close(ours)
    owner.prepare()


def test_late_answer_to_an_earlier_question_is_passed_over(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(*_: Any) -> bytes:
        raise BlockingIOError

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", slow)
        assert owner.is_own(asked(*ends)) is False
    absent = asked(IPv4Address("TCP", "127.0.0.1", 1), IPv4Address("TCP", "127.0.0.1", 2))
    assert owner.is_own(absent) is False
    assert owner.is_own(asked(*ends)) is True


def test_closed_connection_has_no_user(ends: Any) -> None:
    """The kernel gives root as the user of a closed socket that it still has."""
    here, there = ends
    request = asked(here, there)
    assert owner.is_own(request) is True
    for theirs in [s for s in gc.get_objects() if _is_at(s, there)]:
        theirs.close()
    assert {owner.is_own(asked(here, there)) for _ in range(200)} == {False}
    assert owner.is_own(request) is True, "the owner of a connection is looked up once"


def _is_at(candidate: object, address: Any) -> bool:
    if type(candidate) is not socket.socket or candidate.fileno() < 0:
        return False
    return candidate.family != socket.AF_UNIX and candidate.getsockname()[1] == address.port


def test_answer_without_an_inode_has_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = bytearray(200)
    answer[4:6] = (20).to_bytes(2, "little")

    monkeypatch.setattr(owner._kernel, "ask", lambda _: bytes(answer))
    ends = ("127.0.0.1", 1), ("127.0.0.1", 2)
    assert owner.tcp_user(socket.AF_INET, *ends) is None
    answer[owner._OWNER_AT + 4] = 7
    assert owner.tcp_user(socket.AF_INET, *ends) == 0


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (IPv4Address("TCP", "127.0.0.1", 1), IPv4Address("TCP", "127.0.0.1", 2)),
        (IPv6Address("TCP", "::1", 1), IPv6Address("TCP", "::1", 2)),
        (IPv4Address("TCP", "127.0.0.1", 1), IPv4Address("TCP", "nonsense", 2)),
        (IPv4Address("TCP", "127.0.0.1", 1), IPv4Address("TCP", "127.0.0.1", 99_999)),
        (IPv4Address("TCP", "127.0.0.1", 1), None),
        (UNIXAddress(b"/x"), UNIXAddress(None)),
    ],
)
def test_missing_connection_has_no_user(here: Any, there: Any) -> None:
    assert owner.is_own(asked(here, there)) is False


def test_unix_socket_has_the_user_of_its_peer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = asked(
            UNIXAddress(b"/x"), UNIXAddress(None), SimpleNamespace(getHandle=lambda: ours)
        )
        assert owner.is_own(request) is True


def test_refusal_of_the_kernel_means_not_own(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(owner, "tcp_user", refused)
    assert owner.is_own(asked(*ends)) is False


def test_system_without_netlink_means_unknown(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_NETLINK")
    assert owner.is_own(asked(*ends)) is None
