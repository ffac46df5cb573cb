"""Measures a server as its clients see it, by requests to its URL."""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from email.utils import parsedate_to_datetime
from functools import partial
from hashlib import sha1
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit
from zlib import decompressobj
from zlib import error as BadGzip

from pushserver.diagnosis.client_findings import LONG_POLL, WEBSOCKET, Answer, Measured, front
from pushserver.opener import ServerRequest, make_request, printable, read_body

MAX_STATUS = 4_194_304
"""The longest answer of `/status`, in bytes."""
ANSWER_SECONDS = 10.0
"""The time limit of an answer that need not wait for an event."""

_CONNECT = b'{"id":1,"connect":{"name":"pushserver doctor"}}'
_COMMAND = '{"id":2,"unsubscribe":{"channel":"pushserver-doctor"}}'
"""It has a reply, and no effect."""
MAX_LINE = 65_536
"""The longest line of a stream, in bytes."""
GZIP = 31
"""The `wbits` of zlib for gzip."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, 1.3."""
_KEPT = ("server", "via", "location", "date")


class Meter:
    """Measures one URL, as a page of it would; raises ValueError for a URL that is not valid.

    `key` is an API key. `wait`: the time limit of an event, and the time of the long-poll, in
    seconds.
    """

    def __init__(self, url: str, key: str | None, channel: str, wait: int):
        self._url = url.rstrip("/")
        self._key = key
        self._channel = channel
        self._wait = wait
        parts = urlsplit(make_request(url, "", {}, key).full_url)
        self._origin = f"{parts.scheme}://{parts.netloc}"

    def measure(self) -> tuple[Measured, dict[str, Any]]:
        """Measure all; also returns the answer of `/status`, empty if there is none."""
        live, body = self._ask("/health/live")
        if live.status == 200 and _object(body).get("status") != "ok":
            live = replace(live, problem="not the answer of this server")
        if live.status != 200 or live.problem:
            return Measured(self._url, self._wait, live), {}
        # Before the transports: the refusals of these measurements are not of interest.
        asked = time.time()
        proxy = front(live)
        path = f"/status?proxy={quote(proxy)}" if proxy else "/status"
        status, body = self._ask(path, MAX_STATUS)
        found = _object(body) if status.status == 200 else {}
        facts = found.get("facts")
        facts = facts if isinstance(facts, dict) else {}
        now = facts.get("time")
        ahead = _date_ahead(live, asked - live.seconds)
        if isinstance(now, (int, float)):
            ahead = now - (asked + status.seconds / 2)
        request = facts.get("request")
        request = request if isinstance(request, dict) else {}
        origin, headers = request.get("origin", ""), request.get("headers")
        if isinstance(headers, dict):
            proxy = front(live, headers)
        stream = f"/connection/sse?cf_connect={quote(_CONNECT.decode())}"
        poll = f"/channels/{quote(self._channel, safe='')}?since=now&wait={self._wait}"
        measurements: dict[str, Callable[[], Answer]] = {
            WEBSOCKET: self._websocket,
            "HTTP stream": partial(self._stream, "/connection/http_stream", _CONNECT),
            "SSE": partial(self._stream, stream),
            LONG_POLL: partial(self._poll, poll),
        }
        with ThreadPoolExecutor(len(measurements)) as threads:
            running = {name: threads.submit(call) for name, call in measurements.items()}
            transports = {name: future.result() for name, future in running.items()}
        measured = Measured(
            self._url,
            self._wait,
            live,
            status,
            str(origin),
            ahead,
            proxy,
            transports,
            self._key is not None,
        )
        return measured, found

    # --- requests ---------------------------------------

    def _ask(
        self, path: str, most: int = 65_536, sent: bytes | None = None, good: int = 200
    ) -> tuple[Answer, bytes]:
        """The whole answer to a GET, or to a POST of `sent`."""
        body = b""

        def read(connection: HTTPConnection, response: HTTPResponse) -> Iterator[None]:
            nonlocal body
            body = response.read(most)
            yield

        return self._exchange(path, ANSWER_SECONDS, read, sent, good=good), body

    def _poll(self, path: str) -> Answer:
        """A long-poll."""

        def read(connection: HTTPConnection, response: HTTPResponse) -> Iterator[None]:
            if not response.read1(1):
                raise ConnectionError("the answer is empty")
            yield

        return self._exchange(path, 2 * self._wait, read)

    def _stream(self, path: str, body: bytes | None = None) -> Answer:
        """A session over a stream: the reply to connect, and that to a command without an effect.

        It accepts gzip, as browsers do: a proxy that compresses may hold bytes back.
        """

        def read(connection: HTTPConnection, response: HTTPResponse) -> Iterator[None]:
            lines = _objects(response)
            reply = next(lines)
            yield
            names = [re.search(rb'"%b":"([^"]+)"' % name, reply) for name in (b"session", b"node")]
            session, node = (match[1].decode() if match else "" for match in names)
            if session:
                command = {"session": session, "node": node, "data": _COMMAND}
                self._ask("/emulation", sent=json.dumps(command).encode(), good=204)
                next(lines)
                yield

        return self._exchange(path, self._wait, read, body, {"Accept-Encoding": "gzip"})

    def _websocket(self) -> Answer:
        """The handshake, a connect command and the first frame."""
        key = b64encode(os.urandom(16))
        accepted = b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode()
        headers = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key.decode(),
        }

        def read(connection: HTTPConnection, response: HTTPResponse) -> Iterator[None]:
            if response.headers.get("Sec-WebSocket-Accept") != accepted:
                raise ConnectionError("the handshake has another Sec-WebSocket-Accept")
            connection.sock.sendall(masked(_CONNECT))
            if len(response.fp.read(2)) < 2:
                raise ConnectionError("the connection was closed")
            yield

        return self._exchange("/connection/websocket", self._wait, read, None, headers, 101)

    def _exchange(
        self,
        path: str,
        seconds: float,
        read: Callable[[HTTPConnection, HTTPResponse], Iterator[None]],
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        good: int = 200,
    ) -> Answer:
        """Send a request as a page, and `read` events from its answer if its status is good."""
        sent = {"Origin": self._origin, "Accept": "*/*", **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        request = make_request(self._url, path, sent, self._key, body)
        started = time.monotonic()
        answer = Answer()
        connection = _connection(request, seconds)
        try:
            with closing(connection):
                fields = dict(request.header_items())
                connection.request(request.get_method(), request.selector, body, fields)
                response = connection.getresponse()
                with closing(response):
                    kept = {name: printable(response.headers.get(name, "")) for name in _KEPT}
                    kept = {name: value for name, value in kept.items() if value}
                    lower = all(name.islower() for name in response.headers)
                    seconds = time.monotonic() - started
                    answer = Answer(response.status, seconds=seconds, headers=kept, lower=lower)
                    if response.status != good:
                        return replace(answer, problem=_message(response))
                    for _ in read(connection, response):
                        now = time.monotonic() - started
                        answer = replace(answer, events=(*answer.events, now))
                    return answer
        except TimeoutError:
            return replace(answer, problem="timed out", late=True)
        except (OSError, HTTPException, BadGzip) as error:
            return replace(answer, problem=printable(str(error) or type(error).__name__))


def _objects(response: HTTPResponse) -> Iterator[bytes]:
    """The lines of a stream that have a JSON object; raises ConnectionError at its end."""
    compressed = "gzip" in response.headers.get("Content-Encoding", "")
    decompressor = decompressobj(GZIP)
    text = b""
    while len(text) < MAX_LINE:
        data = response.read1(MAX_LINE)
        if not data:
            raise ConnectionError("the stream has ended")
        text += decompressor.decompress(data, MAX_LINE) if compressed else data
        *lines, text = text.split(b"\n")
        yield from (line for line in lines if b"{" in line)
    raise ConnectionError(f"a line has more than {MAX_LINE} bytes")


def masked(payload: bytes) -> bytes:
    """A text frame of a client (RFC 6455, 5.2), of up to 125 bytes."""
    mask = os.urandom(4)
    data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes([0x81, 0x80 | len(payload)]) + mask + data


def _connection(request: ServerRequest, seconds: float) -> HTTPConnection:
    if request.type == "https":
        context = ssl.create_default_context()
        return HTTPSConnection(request.host, timeout=seconds, context=context)
    return HTTPConnection(request.host, timeout=seconds)


def _message(response: HTTPResponse) -> str:
    """The message of an answer that refuses; its reason phrase if it is not the server's own."""
    try:
        return printable(str(json.loads(read_body(response, ANSWER_SECONDS))["error"]["message"]))
    except (OSError, HTTPException, ValueError, LookupError, TypeError, RecursionError):
        return printable(response.reason)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _date_ahead(live: Answer, asked: float) -> float | None:
    """The difference by the header Date, which has whole seconds."""
    try:
        date = parsedate_to_datetime(live.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    return date + 0.5 - (asked + live.seconds / 2)
