from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from twisted.internet import reactor as installed
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor

from pushserver.server.inherited import Inherited, NamedEndpoint, inherited, passed
from tests.e2e.certificate import certificate


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(opened: ExitStack, *hosts: str) -> list[Inherited]:
    """A socket for each host, all with the name http."""
    sockets = []
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sockets.append(opened.enter_context(socket.create_server((host, 0), family=family)))
    return [Inherited(one.fileno(), "http") for one in sockets]


def endpoints(text: str, sockets: list[Inherited]) -> list[NamedEndpoint]:
    return inherited(MemoryReactor(), text, sockets, lambda descriptor: True)


def test_every_socket_of_the_name_is_taken(opened: ExitStack) -> None:
    sockets = listening(opened, "127.0.0.1", "::1", "127.0.0.1")
    others = [Inherited(one.descriptor, "admin") for one in listening(opened, "127.0.0.1")]
    assert len(endpoints("systemd:name=http", [*others, *sockets])) == 3
    assert len(endpoints("systemd:name=admin", [*sockets, *others])) == 1


@pytest.mark.parametrize(
    "text",
    ["systemd:INET:0", "systemd:domain=INET:index=0", "systemd:index=0", "systemd:INET:name=http"],
)
def test_the_forms_of_twisted_are_read(opened: ExitStack, text: str) -> None:
    assert len(endpoints(text, listening(opened, "127.0.0.1"))) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("systemd:", "expected name= or index="),
        ("systemd:name=http:index=0", "expected name= or index="),
        ("systemd:name=http:backlog=5", "expected name= or index="),
        ("systemd:INET:0:http:more", "expected name= or index="),
        ("systemd:domain=IPV4:name=http", "unknown domain 'IPV4', expected INET, INET6, UNIX"),
        ("systemd:index=first", "index 'first' is not a number"),
        ("systemd:index=1", "only: http"),
        ("systemd:name=web", "only: http"),
        ("systemd:domain=INET6:name=http", "is of the domain INET, expected INET6"),
        ("systemd:domain=UNIX:name=http", "is of the domain INET, expected UNIX"),
    ],
)
def test_other_texts_are_refused_with_a_reason(opened: ExitStack, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        endpoints(text, listening(opened, "127.0.0.1"))


@pytest.mark.parametrize("text", ["systemd:name=http", "systemd:INET:0"])
@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
def test_sockets_of_the_name_have_the_certificate(
    opened: ExitStack, tmp_path: Path, text: str
) -> None:
    key, path = certificate(tmp_path)
    sockets = listening(opened, "127.0.0.1")
    [named] = endpoints(f"{text}:privateKey={key}:certKey={path}", sockets)
    assert named.certificate is not None
    assert named.endpoint is named.certificate.endpoint
    # A path may have a colon.
    colon = path.rename(tmp_path / "a:b")
    escaped = str(colon).replace(":", r"\:")
    [named] = endpoints(f"{text}:certKey={escaped}:privateKey={key}", sockets)
    assert named.certificate is not None
    [named] = endpoints(text, sockets)
    assert named.certificate is None


def test_certificate_without_its_files_is_refused(opened: ExitStack) -> None:
    sockets = listening(opened, "127.0.0.1")
    with pytest.raises(ValueError, match=r"certKey=/c needs privateKey="):
        endpoints("systemd:name=http:certKey=/c", sockets)
    with pytest.raises(OSError, match=r"/no/such/file"):
        endpoints("systemd:name=http:privateKey=/no/such/file", sockets)


def test_no_socket_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="systemd passed no socket; expected a start by systemd"):
        endpoints("systemd:name=http", [])


def test_a_socket_serves_one_endpoint(opened: ExitStack) -> None:
    with pytest.raises(ValueError, match="belongs to another --listen already"):
        inherited(
            MemoryReactor(), "systemd:name=http", listening(opened, "127.0.0.1"), lambda _: False
        )


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_socket_that_does_not_listen_is_refused(opened: ExitStack, kind: int) -> None:
    family = socket.AF_UNIX if kind == socket.SOCK_SEQPACKET else socket.AF_INET
    one = opened.enter_context(socket.socket(family, kind))
    with pytest.raises(ValueError, match="is not of ListenStream="):
        endpoints("systemd:name=http", [Inherited(one.fileno(), "http")])


def test_a_closed_descriptor_is_refused() -> None:
    with pytest.raises(ValueError, match="the descriptor 1000000 of systemd: "):
        endpoints("systemd:name=http", [Inherited(1_000_000, "http")])


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.upstream
def test_the_file_of_a_unix_socket_stays(opened: ExitStack, tmp_path: Path, abstract: bool) -> None:
    path = tmp_path / "s"
    one = opened.enter_context(socket.socket(socket.AF_UNIX))
    one.bind(f"\0{path}" if abstract else str(path))
    one.listen()
    if not abstract:
        path.chmod(0o600)
    sockets = [Inherited(os.dup(one.fileno()), "http")]
    [named] = inherited(installed, "systemd:name=http", sockets, lambda _: True)
    assert named.text == f"unix:{'@' if abstract else ''}{path}"
    ports: list[object] = []
    named.endpoint.listen(Factory()).addCallback(ports.append)
    [port] = ports
    port.stopReading()  # type: ignore[attr-defined]
    port.connectionLost(None)  # type: ignore[attr-defined]
    # Connections wait for the next start.
    opened.enter_context(socket.socket(socket.AF_UNIX)).connect(one.getsockname())
    if not abstract:
        assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.upstream
def test_a_process_without_systemd_has_no_sockets() -> None:
    assert passed({}) == []
    assert passed({"LISTEN_FDNAMES": "http"}) == []
