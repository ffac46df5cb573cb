"""`type = "webhook"`: publishes what outside services post to `/hooks/NAME`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs

from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.channels import jsontext
from pushserver.channels.idempotency import REMEMBERED_SECONDS, check_key
from pushserver.channels.names import check_event
from pushserver.channels.publication import Receipt
from pushserver.config.limits import Positive
from pushserver.errors import InvalidData, InvalidKey, InvalidName, NotJSON, Unavailable
from pushserver.sources.http_client.headers import is_header_name
from pushserver.sources.interface import Feed, IHook, ISource, SourceFailed
from pushserver.sources.types.source_type import SourceType
from pushserver.sources.types.webhook.signatures import (
    Encoding,
    NotSigned,
    Scheme,
    Signed,
    Stamped,
    Token,
    Unsigned,
)

MOST_SECRET_BYTES = 4_096
MOST_TOLERANCE_SECONDS = REMEMBERED_SECONDS / 2 - 5.0
"""A request is valid twice so long, if the sender's clock is ahead, and must be remembered
until then; the rest is for its way from the check to the publication."""

_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Options:
    """What stands in the table of the source beside the common keys."""

    signature: Literal["hub-sha256", "stripe", "plain", "token", "none"]
    """How a request shows from whom it is; `none`: anybody may post."""
    secret: str = field(default="", repr=False)
    secret_file: str = ""
    """A file with the secret in its place; white space at its end is not part of it."""
    header: str = ""
    """Of `plain` and `token`: where the signature or the token stands."""
    prefix: str = ""
    """Of `plain` and `token`: what stands before it."""
    encoding: Encoding = "hex"
    """Of `plain`: how the signature is written."""
    tolerance_seconds: Positive = MOST_TOLERANCE_SECONDS
    """Of `stripe`: how far the time of a request may be from ours."""
    id_header: str = ""
    """The header that names the delivery: the same name again is published once."""
    event_header: str = ""
    """The header that names the event."""


class Refused(Exception):
    """The request is refused: with this status, and the text says why."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@implementer(ISource, IHook)
class Webhook:
    """Publishes each request that is signed as it is to be.

    Nothing waits here: who posts too often, or when nothing can be published, is told to
    come again.
    """

    def __init__(self, options: Options, scheme: Scheme):
        self._options = options
        self._scheme = scheme
        self._feed: Feed | None = None
        self._secret = b""

    async def run(self, feed: Feed) -> None:
        self._secret = _secret(self._options)
        self._feed = feed
        try:
            feed.ok()
            await Deferred()
        finally:
            self._feed = None

    async def receive(self, headers: Mapping[str, str], body: bytes) -> tuple[int, object]:
        feed = self._feed
        try:
            if feed is None:
                raise Refused(503, "the source of this webhook does not run now")
            receipt = await self._publish(feed, headers, body)
        except Refused as refused:
            return refused.status, {
                "error": {"code": refused.status, "message": str(refused)},
            }
        return 201, {"offset": receipt.offset, "epoch": receipt.epoch, "id": receipt.id}

    async def _publish(self, feed: Feed, headers: Mapping[str, str], body: bytes) -> Receipt:
        try:
            signed = self._scheme.check(self._secret, headers, body)
        except NotSigned as error:
            feed.trouble(f"a request was refused: {error}")
            raise Refused(401, str(error)) from None
        try:
            event = _named(headers, self._options.event_header, check_event)
            key = _named(headers, self._options.id_header, check_key)
            if feed.delay() > 0:
                raise Refused(429, "more requests than max_rate allows: come again in a second")
            value = _value(headers.get("content-type", ""), body)
            # The header with the name of the delivery is not signed: it must not make
            # another request of one that somebody has recorded.
            return await feed.publish(value, event, key=signed or key)
        except (InvalidData, InvalidName, InvalidKey) as error:
            raise Refused(400, str(error)) from None
        except (Unavailable, SourceFailed) as error:
            raise Refused(503, str(error)) from None


def _named(headers: Mapping[str, str], header: str, check: Callable[[str], str]) -> str:
    """The value of this header, checked; empty without it."""
    value = headers.get(header.lower(), "") if header else ""
    return check(value) if value else ""


def _value(content_type: str, body: bytes) -> object:
    """What the body says: JSON, a form with JSON in the field `payload`, or text.

    Whatever can be read as JSON is that: what plain `curl -d` sends says that it is a form.
    """
    media = content_type.partition(";")[0].strip().lower()
    if not body:
        raise Refused(400, "the body is empty, expected JSON or text")
    if media.startswith("multipart/"):
        raise Refused(415, f"content-type {media:.80} is not understood, expected JSON or text")
    if media == "application/json" or media.endswith("+json"):
        return _json(body)
    try:
        return _json(body)
    except NotJSON:
        text = _text(body)
    field = _payload(text) if media == _FORM else None
    return text if field is None else _json(field)


def _json(text: bytes) -> object:
    try:
        return jsontext.decode(text)
    except NotJSON as error:
        raise NotJSON(f"the body is not JSON: {error}") from None
    except InvalidData as error:
        raise InvalidData(f"the body cannot be published: {error}") from None


def _payload(form: str) -> bytes | None:
    """The field `payload`; None where there is none."""
    try:
        fields = parse_qs(form, keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError as error:
        raise InvalidData(f"the body is no form: {error}") from None
    values = fields.get("payload", [])
    if len(values) > 1:
        raise InvalidData(f"the form has {len(values)} fields payload, expected one with JSON")
    return values[0].encode() if values else None


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidData(f"invalid UTF-8 at byte {error.start}") from None


def _secret(options: Options) -> bytes:
    """The secret, read if it is in a file; raises SourceFailed."""
    if not options.secret_file:
        return options.secret.encode()
    try:
        with Path(options.secret_file).open("rb") as file:
            secret = file.read(MOST_SECRET_BYTES + 1).rstrip()
    except OSError as error:
        raise SourceFailed(f"{options.secret_file}: {error.strerror or error}") from None
    if not 0 < len(secret) <= MOST_SECRET_BYTES:
        problem = f"expected 1 to {MOST_SECRET_BYTES} bytes"
        raise SourceFailed(f"{options.secret_file}: no secret, {problem}")
    return secret


def _make(options: Options) -> Webhook:
    _check_secret(options)
    _check_headers(options)
    if options.signature == "stripe" and not (
        0 < options.tolerance_seconds <= MOST_TOLERANCE_SECONDS
    ):
        raise ValueError(
            f"tolerance_seconds: {options.tolerance_seconds:g}, expected more than 0 and at"
            f" most {MOST_TOLERANCE_SECONDS:g}: what came before is remembered for"
            f" {REMEMBERED_SECONDS:g} s"
        )
    return Webhook(options, _scheme(options))


def _check_secret(options: Options) -> None:
    given = bool(options.secret) + bool(options.secret_file)
    if options.signature == "none" and given:
        raise ValueError('secret: is not looked at with signature = "none", expected none')
    if options.signature != "none" and given != 1:
        raise ValueError("secret: expected either that or secret_file")
    if "\0" in options.secret_file:
        raise ValueError(f"secret_file: {options.secret_file!r}, expected the path of a file")


def _check_headers(options: Options) -> None:
    for key in ("header", "id_header", "event_header"):
        value = getattr(options, key)
        if value and not is_header_name(value):
            raise ValueError(f"{key}: {value!r:.80}, expected the name of a header")
    own = options.signature in ("plain", "token")
    if own and not options.header:
        raise ValueError(f'header: must be set with signature = "{options.signature}"')
    for key in ("header", "prefix"):
        if getattr(options, key) and not own:
            raise ValueError(f'{key}: is for signature = "plain" or "token"')


def _scheme(options: Options) -> Scheme:
    if options.signature == "hub-sha256":
        return Signed("X-Hub-Signature-256", "sha256=")
    if options.signature == "stripe":
        return Stamped(options.tolerance_seconds, time.time)
    if options.signature == "plain":
        return Signed(options.header, options.prefix, options.encoding)
    if options.signature == "token":
        return Token(options.header, options.prefix)
    return Unsigned()


WEBHOOK = SourceType(Options, _make)
