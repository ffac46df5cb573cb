"""The certificate of an endpoint, on a reactor in memory and with a client of the `ssl` module."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from zope.interface import implementer
from zope.interface.verify import verifyObject

from pushserver.server.certificates import UNREADABLE, Certificate, has_certificate
from tests.e2e.certificate import certificate
from tests.unit.fakes.web import memory_reactor

# Twisted 26.10 passes its objects to pyOpenSSL 26 in a form that this deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


class Port:
    """An open port with a certificate."""

    def __init__(self, folder: Path, more: str = "", held: bool = False):
        """`held`: whether the socket was open already."""
        self.folder = folder
        self.reactor = memory_reactor()
        text = f"ssl:443:privateKey={folder}/key.pem:certKey={folder}/certificate.pem{more}"
        socket = Held()
        self.certificate = Certificate(self.reactor, text, socket if held else None)
        self.opened: list[Any] = []
        site = Factory.forProtocol(Protocol)
        self.certificate.endpoint.listen(site).addCallback(self.opened.append)
        self.factories = [*socket.factories, *(one[1] for one in self.reactor.tcpServers)]
        self.factory: Any = self.factories[0]

    def shown(self) -> bytes:
        """The certificate that a new connection is shown, in DER."""
        server, transport = self.factory.buildProtocol(IPv4Address("TCP", "::1", 1)), Transport()
        server.makeConnection(transport)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = context.wrap_bio(incoming, outgoing)
        for _ in range(4):
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            if outgoing.pending:
                server.dataReceived(outgoing.read())
            self.reactor.advance(1)
            incoming.write(transport.value())
            transport.clear()
        return client.getpeercert(binary_form=True) or b""


@implementer(IStreamServerEndpoint)
class Held:
    """A socket that is open already."""

    def __init__(self) -> None:
        self.factories: list[Any] = []

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        self.factories.append(protocolFactory)
        return succeed("the port")


class Transport(StringTransport):
    """A connection in memory, which has an abort."""

    def abortConnection(self) -> None:
        self.loseConnection()


def new(folder: Path) -> bytes:
    """Write a certificate with its key; returns it in DER."""
    certificate(folder)
    return ssl.PEM_cert_to_DER_cert((folder / "certificate.pem").read_text())


@pytest.fixture(params=[False, True], ids=["opened", "held"])
def port(tmp_path: Path, request: pytest.FixtureRequest) -> Port:
    new(tmp_path)
    return Port(tmp_path, held=request.param)


def test_port_of_a_held_socket_is_that_of_its_endpoint(tmp_path: Path) -> None:
    new(tmp_path)
    port = Port(tmp_path, held=True)
    assert (port.opened, port.reactor.tcpServers) == (["the port"], [])


def test_new_connections_get_the_new_certificate_once_it_is_used(port: Port) -> None:
    old, newer = port.shown(), new(port.folder)
    use = port.certificate.read()
    assert port.shown() == old != newer
    assert use()
    assert port.shown() == newer


def test_files_that_did_not_change_change_nothing(port: Port) -> None:
    assert port.certificate.read()() is False


def test_certificate_is_new_if_only_its_chain_changed(tmp_path: Path) -> None:
    new(tmp_path)
    chain = tmp_path / "chain.pem"
    chain.write_bytes((tmp_path / "certificate.pem").read_bytes())
    port = Port(tmp_path, f":extraCertChain={chain}")
    assert port.certificate.read()() is False
    (tmp_path / "issuer").mkdir()
    new(tmp_path / "issuer")
    chain.write_bytes((tmp_path / "issuer" / "certificate.pem").read_bytes())
    assert port.certificate.read()() is True


def test_reading_opens_no_second_port(port: Port) -> None:
    port.certificate.read()()
    assert len(port.factories) == 1


@pytest.mark.parametrize("name", ["key.pem", "certificate.pem"])
@pytest.mark.parametrize("content", [None, "", "no key", "-----BEGIN PRIVATE KEY-----\nx\n"])
def test_a_certificate_without_its_key_is_an_error_and_the_old_one_stays(
    port: Port, name: str, content: str | None
) -> None:
    old = port.shown()
    (port.folder / name).unlink()
    if content is not None:
        (port.folder / name).write_text(content)
    with pytest.raises((ValueError, OSError)) as caught:
        port.certificate.read()
    expected = "No such file" if content is None else UNREADABLE
    assert expected in str(caught.value)
    assert port.shown() == old


def test_the_key_of_another_certificate_is_an_error(port: Port) -> None:
    old, other = port.shown(), port.folder / "other"
    other.mkdir()
    new(other)
    (port.folder / "key.pem").write_bytes((other / "key.pem").read_bytes())
    with pytest.raises(Exception, match="do not match"):
        port.certificate.read()
    assert port.shown() == old


def test_the_site_starts_and_stops_with_the_port(tmp_path: Path) -> None:
    calls: list[str] = []

    @implementer(IProtocolFactory)
    class Site:
        def doStart(self) -> None:
            calls.append("start")

        def doStop(self) -> None:
            calls.append("stop")

        def buildProtocol(self, addr: object) -> Any:
            return Protocol()

    new(tmp_path)
    port = Port(tmp_path)
    made = Certificate(memory_reactor(), port.certificate._text)
    reactor: Any = made._reactor
    made.endpoint.listen(Site())
    factory = reactor.tcpServers[0][1]
    assert verifyObject(IProtocolFactory, factory)
    factory.doStart()
    factory.doStop()
    assert calls == ["start", "stop"]


@pytest.mark.parametrize(
    ("text", "has"), [("ssl:443", True), ("haproxy:ssl:443", True), ("tcp:80", False)]
)
def test_endpoints_with_certificates_are_known(text: str, has: bool) -> None:
    assert has_certificate(text) is has
