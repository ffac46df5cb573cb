from __future__ import annotations

import gzip
import ipaddress
import re
import socket
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import DefaultOpenSSLContextFactory
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport

import pushserver
from pushserver.sources.http_client.connection import HEAD_BYTES, MAX_REST_SECONDS, Connection
from pushserver.sources.http_client.fetch import MAX_REDIRECTS, Document, Fetcher, _origin
from pushserver.sources.http_client.response import MAX_RETRY_SECONDS, UnusableResponse, retry_after
from pushserver.sources.interface import SourceFailed
from pushserver.usercode.reactor import Reactor
from tests.unit.fakes.remote import Remote, RemoteCase, StillReactor, Visit, failure_of, reactor
from tests.unit.fakes.web import Log

NOW = 1_795_000_000.0


class FetchCase(RemoteCase):
    def fetch(
        self,
        url: str,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = 1_000,
        conditions: Mapping[str, str] | None = None,
        clock: Any = reactor,
    ) -> Deferred[Document | None]:
        fetcher = Fetcher(url, headers or {}, 30)
        return self.start(fetcher.fetch(clock, conditions or {}, max_bytes))

    async def requested(self, remote: Remote, max_bytes: int = 1_000) -> tuple[Visit, Any]:
        """Start a fetch; return its request, which waits for an answer, and its Deferred."""
        fetching = self.fetch(remote.url, max_bytes=max_bytes)
        return await remote.visit(), fetching


class TestDocument(FetchCase):
    async def test_document_has_body_url_type_and_validators(self) -> None:
        remote = self.remote()
        fetching = self.fetch(f"{remote.url}a/b?c=d#e")
        visit = await remote.visit()
        assert visit.path == "/a/b?c=d"
        assert visit.headers["user-agent"] == f"pushserver/{pushserver.__version__}"
        assert visit.headers["host"] == remote.host
        visit.answer(b"hello", content_type="text/plain", etag='"x"', last_modified="today")
        url = f"{remote.url}a/b?c=d#e"
        assert await fetching == Document(b"hello", url, "text/plain", '"x"', "today")
        await visit.gone

    async def test_chunks_are_joined(self) -> None:
        visit, fetching = await self.requested(self.remote())
        visit.begin(transfer_encoding="chunked")
        for piece in (b"he", b"llo", b""):
            visit.chunk(piece)
        assert (await fetching).body == b"hello"

    async def test_body_without_length_ends_with_the_connection(self) -> None:
        visit, fetching = await self.requested(self.remote())
        visit.begin()
        visit.write(b"hello")
        visit.close()
        assert (await fetching).body == b"hello"

    async def test_request_has_the_headers_of_the_configuration(self) -> None:
        remote = self.remote()
        self.fetch(remote.url, {"X-Token": "s3cret", "User-Agent": "me (me@example.org)"})
        visit = await remote.visit()
        assert visit.headers["x-token"] == "s3cret"
        assert visit.headers["user-agent"] == "me (me@example.org)"

    async def test_fetch_logs_nothing(self) -> None:
        remote = self.remote()
        with Log() as logged:
            visit, fetching = await self.requested(remote)
            visit.answer(b"hello")
            await fetching
            await visit.gone
        assert logged.take() == []

    async def test_host_may_be_a_name(self) -> None:
        remote = self.remote()
        fetching = self.fetch(remote.url.replace("127.0.0.1", "localhost"))
        visit = await remote.visit()
        assert visit.headers["host"] == remote.host.replace("127.0.0.1", "localhost")
        visit.answer(b"hello")
        assert await fetching

    async def test_etag_of_any_bytes_is_sent_back_unchanged(self) -> None:
        remote, tag = self.remote(), b'"\xff\xc3\xa4"'
        visit, fetching = await self.requested(remote)
        visit.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nETag: %b\r\n\r\nx" % tag)
        document = await fetching
        self.fetch(remote.url, conditions={"if-none-match": document.etag})
        visit = await remote.visit()
        assert visit.headers["if-none-match"].encode("latin-1") == tag

    async def test_unmodified_document_is_none(self) -> None:
        remote = self.remote()
        fetching = self.fetch(remote.url, conditions={"if-none-match": '"x"'})
        visit = await remote.visit()
        assert visit.headers["if-none-match"] == '"x"'
        visit.begin(304, etag='"x"')
        visit.close()
        assert await fetching is None


class TestBody(FetchCase):
    async def error(self, visit: Visit, fetching: Deferred[Any]) -> str:
        error = await failure_of(fetching)
        assert isinstance(error, UnusableResponse)
        await visit.gone
        return str(error)

    async def test_body_of_exactly_max_bytes_is_accepted(self) -> None:
        visit, fetching = await self.requested(self.remote(), max_bytes=5)
        visit.answer(b"hello")
        assert (await fetching).body == b"hello"

    async def test_long_body_may_arrive_with_the_end_of_the_head(self) -> None:
        for begin in (b"", b"HTTP/1.1 200 OK\r\n"):
            visit, fetching = await self.requested(self.remote(), max_bytes=1_000_000)
            visit.write(begin)
            for _ in range(3):
                await deferLater(reactor, 0)
            visit.write(b"HTTP/1.1 200 OK\r\n".removeprefix(begin))
            visit.write(b"Content-Length: 900000\r\n\r\n" + bytes(900_000))
            assert (await fetching).body == bytes(900_000)

    async def test_body_with_a_length_above_max_bytes_is_not_read(self) -> None:
        remote = self.remote()
        visit, fetching = await self.requested(remote, max_bytes=5)
        visit.begin(content_length="6")
        message = await self.error(visit, fetching)
        assert message == f"{remote.host} answered with more than 5 bytes (max_bytes)"

    async def test_body_above_max_bytes_closes_the_connection(self) -> None:
        visit, fetching = await self.requested(self.remote(), max_bytes=5)
        visit.begin(transfer_encoding="chunked")
        visit.chunk(b"hello!")
        assert "more than 5 bytes" in await self.error(visit, fetching)

    async def test_gzip_is_decompressed(self) -> None:
        visit, fetching = await self.requested(self.remote())
        assert visit.headers["accept-encoding"] == "gzip"
        visit.answer(gzip.compress(b"hello" * 200), content_encoding="GZIP")
        assert (await fetching).body == b"hello" * 200

    async def test_decompression_stops_at_max_bytes(self) -> None:
        visit, fetching = await self.requested(self.remote(), max_bytes=100_000)
        visit.answer(gzip.compress(bytes(50_000_000)), content_encoding="gzip")
        assert "more than 100000 bytes" in await self.error(visit, fetching)

    async def test_truncated_or_invalid_gzip_is_an_error(self) -> None:
        for body in (gzip.compress(b"hello")[:-9], b"hello", zlib.compress(b"hello"), b""):
            visit, fetching = await self.requested(self.remote())
            visit.answer(body, content_encoding="gzip")
            assert "answered with invalid gzip" in await self.error(visit, fetching)

    async def test_other_encoding_is_an_error(self) -> None:
        visit, fetching = await self.requested(self.remote())
        visit.answer(b"hello", content_encoding="br")
        assert "answered with the coding 'br', expected gzip or none" in await self.error(
            visit, fetching
        )

    async def test_connection_is_paused_between_reads(self) -> None:
        remote = self.remote()
        opening = self.start(Fetcher(remote.url, {}, 30).open(reactor, {}))
        visit = await remote.visit()
        visit.begin()
        producer = EndlessBody(visit)
        response = await opening
        await producer.paused
        for _ in range(50):
            await deferLater(reactor, 0)
        sent = producer.sent
        assert sent > 1_000_000
        assert len(await response.read()) < 200_000
        assert len(await response.read()) < 200_000
        assert producer.sent == sent
        response.close()
        await visit.gone

    async def test_chunks_of_one_read_are_one_piece(self) -> None:
        remote = self.remote()
        opening = self.start(Fetcher(remote.url, {}, 30).open(reactor, {}))
        visit = await remote.visit()
        visit.begin(transfer_encoding="chunked")
        response = await opening
        reading = self.start(response.read())
        visit.write(b"1\r\nx\r\n" * 5_000)
        # Maybe not all: the bytes need not arrive at once.
        assert len(await reading) > 1
        response.close()
        await visit.gone


class SlowReader:
    """A connection whose response takes `seconds` for each read from the socket."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = 0.0
        self.connection = Connection(cast(Reactor, self.clock))
        self.connection.wrappedFactory = Factory.forProtocol(Protocol)
        self.connection.on_received = lambda: self.clock.advance(self.seconds)
        self._meter = self.connection.buildProtocol(IPv4Address("TCP", "127.0.0.1", 80))
        self._meter.makeConnection(StringTransport())

    def receive(self, seconds: float) -> None:
        self.seconds = seconds
        self._meter.dataReceived(b"x")

    def rest(self) -> float:
        """Return the length of the rest that the reader has to take now."""
        began = self.clock.seconds()
        resting = Deferred.fromCoroutine(self.connection.rest())
        while not resting.called:
            self.clock.advance(0.25)
        return self.clock.seconds() - began


class TestShare:
    def test_slow_response_rests_three_times_as_long(self) -> None:
        reader = SlowReader()
        reader.receive(1.0)
        assert reader.rest() == 3.0
        reader.receive(0.5)
        assert reader.rest() == 1.5

    def test_many_short_reads_count_together(self) -> None:
        reader = SlowReader()
        for _ in range(64):
            reader.receive(1 / 64)
        assert reader.rest() == 3.0

    def test_pauses_of_the_other_server_count_as_rest(self) -> None:
        reader = SlowReader()
        for _ in range(64):
            reader.receive(1 / 64)
            reader.clock.advance(3 / 64)
        assert reader.rest() == 0.0

    def test_rest_is_bounded(self) -> None:
        reader = SlowReader()
        reader.receive(1_000.0)
        assert reader.rest() == MAX_REST_SECONDS


class EndlessBody:
    """Sends until the connection is full; `paused` fires when it is paused."""

    def __init__(self, visit: Visit):
        self.paused: Deferred[None] = Deferred()
        self.sent = 0
        transport: Any = visit.transport
        self._transport = transport
        transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self._paused = False
        while not self._paused and self.sent < 50_000_000:
            self._transport.write(bytes(1_000_000))
            self.sent += 1_000_000

    def pauseProducing(self) -> None:
        self._paused = True
        if not self.paused.called:
            self.paused.callback(None)

    def stopProducing(self) -> None:
        self._paused = True


class TestErrorStatus(FetchCase):
    async def error(self, status: int, **headers: str) -> UnusableResponse:
        visit, fetching = await self.requested(self.remote())
        visit.answer(b"a page that says so", status, **headers)
        error = await failure_of(fetching)
        assert isinstance(error, UnusableResponse)
        await visit.gone
        return error

    async def test_error_has_the_host_but_not_the_url(self) -> None:
        remote = self.remote()
        fetching = self.fetch(f"{remote.url}path?token=s3cret")
        (await remote.visit()).answer(b"", 404)
        assert str(await failure_of(fetching)) == f"{remote.host} answered 404 Not Found"

    async def test_error_has_the_status(self) -> None:
        for status in (201, 204, 206, 300, 400, 401, 403, 418, 500, 599):
            assert f"answered {status}" in str(await self.error(status))

    async def test_retry_after_is_in_the_error(self) -> None:
        for status in (429, 503):
            assert (await self.error(status, retry_after="90")).retry_seconds == 90

    async def test_retry_after_is_relative_to_the_clock_of_the_server(self) -> None:
        for date in ("Mon, 01 Jan 2001 00:00:00 GMT", "Sat, 01 Jan 2101 00:00:00 GMT"):
            until = date.replace("00:00:00", "00:01:30")
            assert (await self.error(503, date=date, retry_after=until)).retry_seconds == 90

    async def test_retry_after_of_another_status_is_ignored(self) -> None:
        assert (await self.error(404, retry_after="90")).retry_seconds == 0


class TestRedirect(FetchCase):
    async def test_redirect_on_the_same_host_keeps_all_headers(self) -> None:
        remote = self.remote()
        for status in (301, 302, 303, 307, 308):
            fetching = self.fetch(f"{remote.url}a/b", {"X-Token": "s3cret"})
            first = await remote.visit()
            first.answer(b"over there", status, location="../c?d")
            second = await remote.visit()
            assert (second.path, second.headers["x-token"]) == ("/c?d", "s3cret")
            second.answer(b"here")
            document = await fetching
            assert document is not None
            assert (document.body, document.url) == (b"here", f"{remote.url}c?d")
            await first.gone

    async def test_redirect_to_another_host_drops_the_headers(self) -> None:
        first_host, other_host = self.remote(), self.remote()
        headers = {"Authorization": "Bearer x", "X-Token": "y", "Cookie": "z", "User-Agent": "me"}
        fetching = self.fetch(first_host.url, headers, conditions={"if-none-match": '"x"'})
        (await first_host.visit()).answer(b"", 302, location=f"{other_host.url}a")
        visit = await other_host.visit()
        assert visit.headers == {
            "host": other_host.host,
            "connection": "close",
            "user-agent": "me",
            "accept-encoding": "gzip",
            "if-none-match": '"x"',
        }
        visit.answer(b"", 302, location=first_host.url)
        visit = await first_host.visit()
        assert "authorization" not in visit.headers
        visit.answer(b"back")
        assert await fetching

    async def test_endless_body_of_a_redirect_is_aborted(self) -> None:
        remote = self.remote()
        fetching = self.fetch(remote.url)
        first = await remote.visit()
        first.begin(302, location="/a", transfer_encoding="chunked")
        first.chunk(b"never ending")
        (await remote.visit()).answer(b"here")
        assert await fetching
        await first.gone
        assert first.was_dropped

    async def test_circle_of_redirects_is_an_error(self) -> None:
        remote = self.remote()
        # Without a location, a redirect leads to its own URL.
        for location in (remote.url, ""):
            fetching = self.fetch(remote.url)
            for _ in range(MAX_REDIRECTS + 1):
                (await remote.visit()).answer(b"", 302, location=location)
            error = await failure_of(fetching)
            assert isinstance(error, UnusableResponse)
            assert str(error) == f"{remote.host} redirects more than 5 times"

    async def test_redirect_to_an_invalid_url_is_an_error(self) -> None:
        targets = ("ftp://127.0.0.1/", "file:///etc/passwd", "ws://127.0.0.1/", "//[")
        for target in (*targets, "http://a b/", "http://me@127.0.0.1/", "http://x:99999/", "/ä"):
            visit, fetching = await self.requested(self.remote())
            visit.answer(b"", 302, location=target)
            error = await failure_of(fetching)
            assert isinstance(error, UnusableResponse), target
            assert "redirects to an invalid URL" in str(error), target


class TestNoResponse(FetchCase):
    async def failure(self, fetching: Deferred[Any]) -> str:
        error = await failure_of(fetching)
        assert type(error) is SourceFailed
        return str(error)

    async def test_malformed_first_line_is_named(self) -> None:
        visit, fetching = await self.requested(self.remote())
        visit.write(b"hello\xff" + b"x" * 200 + b"\r\n")
        message = await self.failure(fetching)
        assert message.partition(": ")[2].startswith(r"wrong number of parts: b'hello\xffxxx")
        assert len(message) < 150

    async def test_refused_connection_fails(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))
            host = f"127.0.0.1:{bound.getsockname()[1]}"
            message = await self.failure(self.fetch(f"http://{host}/"))
        assert message.startswith(f"{host}: ")
        assert "refused" in message

    async def test_connection_lost_before_the_head_fails(self) -> None:
        for send in (b"", b"HTTP/1.1 200 OK\r\nA: b\r\n", b"HTTP/1.1 200 OK\r\n"):
            remote = self.remote()
            visit, fetching = await self.requested(remote)
            visit.write(send)
            visit.close()
            assert (await self.failure(fetching)).startswith(f"{remote.host}: ")

    async def test_connection_lost_within_the_body_fails(self) -> None:
        visit, fetching = await self.requested(self.remote())
        visit.begin(content_length="10")
        visit.write(b"half")
        visit.close()
        await self.failure(fetching)
        visit, fetching = await self.requested(self.remote())
        visit.begin(transfer_encoding="chunked")
        visit.chunk(b"half")
        visit.cut()
        await self.failure(fetching)

    async def test_response_of_another_protocol_fails(self) -> None:
        for data in (b"SSH-2.0-OpenSSH\r\n", b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n"):
            visit, fetching = await self.requested(self.remote())
            visit.write(data)
            await self.failure(fetching)
            await visit.gone

    async def test_invalid_chunks_fail(self) -> None:
        visit, fetching = await self.requested(self.remote())
        visit.begin(transfer_encoding="chunked")
        visit.write(b"xyz\r\nabc\r\n")
        await self.failure(fetching)
        await visit.gone

    async def test_late_response_fails(self) -> None:
        for begin in (
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
        ):
            clock, remote = StillReactor(), self.remote()
            fetching = self.fetch(remote.url, clock=clock)
            visit = await remote.visit()
            visit.write(begin)
            for _ in range(3):
                await deferLater(reactor, 0)
            clock.clock.advance(29)
            assert not fetching.called
            clock.clock.advance(1)
            message = await self.failure(fetching)
            assert message == f"{remote.host} did not answer within 30 s (timeout_seconds)"
            await visit.gone
            assert clock.clock.getDelayedCalls() == []

    async def test_long_head_fails(self) -> None:
        remote = self.remote()
        for line in (b"X-A: " + b"b" * 1_000, b" folded" * 100, b"X: " + b"y" * 20_000):
            visit, fetching = await self.requested(remote)
            visit.write(b"HTTP/1.1 200 OK\r\nA: b\r\n")
            visit.write((line + b"\r\n") * (HEAD_BYTES // len(line) + 1))
            assert isinstance(await failure_of(fetching), SourceFailed)
            await visit.gone

    async def test_endless_early_hints_fail(self) -> None:
        remote = self.remote()
        visit, fetching = await self.requested(remote)
        visit.write(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2_000)
        message = str(await failure_of(fetching))
        assert message == f"{remote.host} answered with a head of more than 65536 bytes"
        await visit.gone


class TestCancelledFetch(FetchCase):
    async def cancelled(self, fetching: Deferred[Any]) -> None:
        fetching.cancel()
        assert isinstance(await failure_of(fetching), CancelledError)

    async def test_cancellation_aborts_the_connection(self) -> None:
        for begin in (
            b"",
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
        ):
            visit, fetching = await self.requested(self.remote())
            visit.write(begin)
            for _ in range(3):
                await deferLater(reactor, 0)
            await self.cancelled(fetching)
            await visit.gone
            assert visit.was_dropped

    async def test_fetch_can_be_cancelled_in_its_first_turn(self) -> None:
        await self.cancelled(self.fetch(self.remote().url))

    async def test_fetch_can_be_cancelled_after_a_redirect(self) -> None:
        remote = self.remote()
        visit, fetching = await self.requested(remote)
        visit.answer(b"", 302, location="/a")
        second = await remote.visit()
        await self.cancelled(fetching)
        await second.gone


class TestTLS(FetchCase):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = tmp_path / "certificate.pem"
        self._environment = monkeypatch

    def serve(self, address: str, trusted: bool = True) -> Remote:
        """Start a server with a certificate for the address."""
        path = str(self._path)
        self._path.write_bytes(certificate_for(address))
        if trusted:
            self._environment.setenv("SSL_CERT_FILE", path)
        return self.remote(DefaultOpenSSLContextFactory(path, path))

    async def test_trusted_certificate_is_accepted(self) -> None:
        visit, fetching = await self.requested(self.serve("127.0.0.1"))
        visit.answer(b"hello")
        assert (await fetching).body == b"hello"
        await visit.gone

    async def test_redirect_to_plain_http_drops_the_headers(self) -> None:
        tls_host, plain_host = self.serve("127.0.0.1"), self.remote()
        fetching = self.fetch(tls_host.url, {"Authorization": "Bearer x", "X-Token": "y"})
        visit = await tls_host.visit()
        assert visit.headers["authorization"] == "Bearer x"
        visit.answer(b"", 301, location=plain_host.url)
        visit = await plain_host.visit()
        assert not {"authorization", "x-token"} & visit.headers.keys()
        visit.answer(b"hello")
        assert await fetching
        await visit.gone

    async def test_untrusted_certificate_is_refused(self) -> None:
        remote = self.serve("127.0.0.1", trusted=False)
        message = str(await failure_of(self.fetch(remote.url)))
        assert message == f"{remote.host}: TLS: certificate verify failed"
        await remote.empty()

    async def test_certificate_for_another_name_is_refused(self) -> None:
        remote = self.serve("127.0.0.2")
        error = await failure_of(self.fetch(remote.url))
        assert isinstance(error, SourceFailed)
        assert "Mismatch" in str(error)
        await remote.empty()


def certificate_for(address: str) -> bytes:
    """Return a key and a self-signed certificate for the address."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False
        )
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "/path",
        "ftp://example.org/",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://[::1",
        "http://example.org:0/",
        "http://example.org:99999/",
        "http://example.org:x/",
        "http://exämple.org/",
        "http://example.org/ä",
        "http://example.org/a b",
        "http://example.org/\n",
        "http://me:s3cret@example.org/",
    ],
)
def test_invalid_url_raises_value_error_with_the_key(url: str) -> None:
    with pytest.raises(ValueError, match=r"^url: "):
        Fetcher(url, {}, 1)


@pytest.mark.parametrize(
    ("url", "other", "same"),
    [
        ("https://a/", "https://A:443/b", True),
        ("http://a:80", "http://a/?c", True),
        ("https://a/", "http://a/", False),
        ("https://a:8443/", "http://a:8443/", False),
        ("http://a/", "http://a:8080/", False),
        ("http://a/", "http://b.a/", False),
        ("http://a/", "http://a./", False),
    ],
)
def test_origin_is_scheme_host_and_port(url: str, other: str, same: bool) -> None:
    assert (_origin(url) == _origin(other)) == same


def test_error_does_not_repeat_a_password() -> None:
    with pytest.raises(ValueError, match=r"headers\.Authorization") as caught:
        Fetcher("http://me:s3cret@example.org/", {}, 1)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://a", "https://[::1]:8443/x?y=z#q", "HTTP://a.example:1/%20"]
)
def test_valid_url_is_accepted(url: str) -> None:
    assert Fetcher(url, {}, 1).url == url


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("a b", "x"),
        ("a:", "x"),
        ("ä", "x"),
        ("x-token", "s3cret\r\nx: y"),
        ("x-token", "s3cret\n"),
        ("x-token", "s3crät"),
        ("Content-Length", "s3cret"),
        ("connection", "s3cret"),
    ],
)
def test_invalid_header_raises_value_error_without_its_value(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"^headers: ") as caught:
        Fetcher("http://a", {name: value}, 1)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        (" 120 ", 120),
        ("999999999", MAX_RETRY_SECONDS),
        ("9" * 400, 0),
        ("-5", 0),
        ("1.5", 0),
        ("٣", 0),
        ("", 0),
        ("soon", 0),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_SECONDS),
        ("Fri, 31 Dec 9999 23:59:59 -2359", MAX_RETRY_SECONDS),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float) -> None:
    assert retry_after(text, NOW) == seconds


DATE = re.compile(r"\w{3}, \d{1,3} \w{3} \d{1,6} [\d:]{0,10} ?[+-]?\w{0,6}", re.ASCII)


@given(st.text() | st.from_regex(DATE))
def test_retry_after_of_any_text_is_within_bounds(text: str) -> None:
    assert 0 <= retry_after(text, NOW) <= MAX_RETRY_SECONDS
