"""`pushserver publish NAME -`: publishes the lines of standard input, many in one request."""

from __future__ import annotations

import codecs
import io
import json
import math
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any, TextIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode

from pushserver.errors import PublishError
from pushserver.opener import (
    MAX_BYTES,
    TEMPORARY,
    make_request,
    printable,
    read_body,
    reason_of,
    send,
)

BATCH_BYTES = 262_144
"""The bytes of one request; a longer line is a request of its own."""
READ_BYTES = 65_536
TIMEOUT_SECONDS = 60.0
FIRST_SECONDS, LATER_SECONDS, PAUSE_SECONDS = 1.0, 60.0, 0.5
"""The time to try the first request, that for later ones while the server restarts, and the pause
between attempts."""
KEYED_LINES, KEYED_SECONDS = 10_000, 300.0
"""The most lines with idempotency keys in five minutes: a server remembers 100,000 keys so long."""

Batch = list[bytes]


def parse_json(text: str) -> object:
    """The value of JSON text; raises ValueError for other text, NaN, or one nested too deeply.

    Raises PublishError for JSON with a number that a double cannot hold.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_line(line: bytes, encoding: str) -> bytes:
    """The line as JSON text: as it is if it is JSON, else as a string.

    Bytes that are not of the encoding become U+FFFD, as in the source `tail`.
    """
    text = line.decode(encoding, "replace")
    try:
        parse_json(text)
    except ValueError:
        return json.dumps(text).encode()
    except PublishError:
        # The server refuses it, and says which line it is.
        pass
    return text.encode()


def batches(source: TextIO) -> Iterator[Batch]:
    """The lines that were read at once, as JSON; raises OSError."""
    encoding = "utf-8"
    if isinstance(source, io.TextIOWrapper):
        raw: Any = source.buffer
        if codecs.lookup(source.encoding).name != "ascii":
            encoding = source.encoding
    else:
        raw = io.BufferedReader(io.BytesIO(source.read().encode()))
    rest = b""
    while chunk := raw.read1(READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from _parts([json_line(line.removesuffix(b"\r"), encoding) for line in lines])
    if rest:
        yield [json_line(rest, encoding)]


def _parts(lines: Batch) -> Iterator[Batch]:
    part: Batch = []
    size = 0
    for line in lines:
        if part and size + len(line) >= BATCH_BYTES:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    if part:
        yield part


class Piper:
    """Publishes batches of lines in order; `first` is the number of the next line.

    A batch has an idempotency key while there are at most KEYED_LINES: it is sent again whole after
    a lost connection, a 503, or a proxy's 502 or 504, and nothing is published twice. Of a batch
    without one, the lines after the published ones are sent again after a 503, and a lost
    connection is an error.
    """

    def __init__(self, url: str, channel: str, event: str, api_key: str | None):
        self.first = 1
        self._url = url
        self._path = f"/channels/{quote(channel, safe='')}?{urlencode({'event': event})}"
        self._api_key = api_key
        # The times and numbers of lines of the batches with keys.
        self._keyed: deque[tuple[float, int]] = deque()

    @property
    def patience(self) -> float:
        """The time to try to reach the server, in seconds."""
        return FIRST_SECONDS if self.first == 1 else LATER_SECONDS

    def publish(self, batch: Batch) -> dict[str, object]:
        """Publish the lines; returns the answer to the last request. Raises PublishError."""
        until = time.monotonic() + self.patience
        key = self._new_key(batch)
        while True:
            problem, answer = self._send(batch, key)
            published = answer.get("published")
            count = published if isinstance(published, int) else 0
            if not (problem and key):
                batch = batch[count:]
                self.first += count
            if not problem:
                return answer
            if time.monotonic() >= until:
                line = self.first + count if key else self.first
                raise PublishError(f"line {line}: {problem}")
            time.sleep(PAUSE_SECONDS)

    def _new_key(self, batch: Batch) -> str:
        """A key for the batch; empty if too many lines had one, or for one very long line."""
        now, keyed = time.monotonic(), self._keyed
        while keyed and keyed[0][0] + KEYED_SECONDS <= now:
            keyed.popleft()
        lines = sum(count for _, count in keyed) + len(batch)
        # A server that refuses a body by its length may close the connection without an answer.
        if lines > KEYED_LINES or sum(map(len, batch)) > BATCH_BYTES:
            return ""
        keyed.append((now, len(batch)))
        return secrets.token_hex(16)

    def _send(self, batch: Batch, key: str) -> tuple[str, dict[str, Any]]:
        """Return a problem that may pass, and the answer; raises PublishError for others."""
        headers = {"Content-Type": "application/x-ndjson"}
        if key:
            headers["Idempotency-Key"] = key
        try:
            body = b"\n".join(batch)
            request = make_request(self._url, self._path, headers, self._api_key, body)
            with send(request, TIMEOUT_SECONDS) as response:
                answer = _answer(read_body(response, TIMEOUT_SECONDS))
        except HTTPError as error:
            with error:
                return self._refused(error, _answer(error.read(MAX_BYTES)), key)
        except (URLError, OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, ConnectionRefusedError):
                return f"{self._url}: {reason}; is it running?", {}
            if isinstance(error, ValueError):
                raise PublishError(printable(str(error))) from None
            last = self.first + len(batch) - 1
            lost = f"lines {self.first} to {last} may have been published, or some of them"
            problem = f"{self._url}: {reason_of(error)}; {lost}"
            if key and isinstance(reason, (ConnectionError, HTTPException)):
                return problem, {}
            raise PublishError(problem) from None
        if "published" not in answer:
            raise PublishError(f"{self._url}: expected a server that publishes lines, got {answer}")
        return "", answer

    def _refused(
        self, error: HTTPError, answer: dict[str, Any], key: str
    ) -> tuple[str, dict[str, Any]]:
        """The same for a refusal; its answer has the number of lines that were published."""
        try:
            message = printable(str(answer["error"]["message"]))
        except (KeyError, TypeError):
            message = printable(str(error.reason))
        published = answer.get("published")
        if not isinstance(published, int):
            if key and error.code in TEMPORARY:
                return f"{error.code}: {message}", {}
            raise PublishError(f"{error.code}: {message}")
        # The server counts the lines of the request.
        message = message.partition(": ")[2]
        if error.code == 503:
            return f"503: {message}", answer
        raise PublishError(f"line {self.first + published}: {error.code}: {message}")


def _answer(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _no_constant(word: str) -> None:
    raise ValueError(word)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise PublishError(f"the number {text[:40]} is beyond the range of a double")
    return number


def standard_input() -> TextIO:
    """Standard input; empty if there is none (`<&-`)."""
    return sys.stdin or io.StringIO()
