from __future__ import annotations

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


def test_a_program_of_our_own_user_is_known(ends: Any) -> None:
    assert owner.is_own(asked(*ends)) is True


def test_a_program_of_another_user_is_not(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "tcp_user", lambda *_: 33)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert owner.is_own(asked(*ends)) is False
    monkeypatch.setattr(os, "geteuid", lambda: 33)
    assert owner.is_own(asked(*ends)) is True


def test_root_is_always_known(ends: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "tcp_user", lambda *_: 0)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert owner.is_own(asked(*ends)) is True


def test_the_user_is_that_of_the_other_end(ends: Any) -> None:
    here, there = (address.host.removeprefix("::ffff:") for address in ends)
    family = socket.AF_INET6 if ":" in here else socket.AF_INET
    assert owner.tcp_user(family, (there, ends[1].port), (here, ends[0].port)) == os.getuid()


def test_a_connection_that_was_closed_is_nobodys(ends: Any) -> None:
    """The kernel gives root as the user of what is left of a closed socket."""
    here, there = ends
    known = asked(here, there)
    assert owner.is_own(known) is True
    for theirs in [s for s in gc.get_objects() if _is_at(s, there)]:
        theirs.close()
    assert {owner.is_own(asked(here, there)) for _ in range(200)} == {False}
    assert owner.is_own(known) is True, "the owner of a connection is looked up once"


def _is_at(found: object, address: Any) -> bool:
    if type(found) is not socket.socket or found.fileno() < 0:
        return False
    return found.family != socket.AF_UNIX and found.getsockname()[1] == address.port


def test_the_remains_of_a_closed_socket_have_no_user(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = bytearray(200)
    answer[4:6] = (20).to_bytes(2, "little")

    class Netlink(socket.socket):
        def sendto(self, *_: Any) -> int:
            return 0

        def recv(self, *_: Any) -> bytes:
            return bytes(answer)

    monkeypatch.setattr(socket, "socket", Netlink)
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
def test_a_connection_that_is_not_there_is_nobodys(here: Any, there: Any) -> None:
    assert owner.is_own(asked(here, there)) is False


def test_a_unix_socket_tells_by_itself() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = asked(
            UNIXAddress(b"/x"), UNIXAddress(None), SimpleNamespace(getHandle=lambda: ours)
        )
        assert owner.is_own(request) is True


def test_where_the_kernel_may_not_be_asked_nobody_is_known(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(owner, "tcp_user", refused)
    assert owner.is_own(asked(*ends)) is False


def test_where_there_is_nothing_to_ask_nothing_is_known(
    ends: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(socket, "AF_NETLINK")
    assert owner.is_own(asked(*ends)) is None
