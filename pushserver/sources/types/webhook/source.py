"""`type = "webhook"`: publishes the requests that other services post to `/hooks/NAME`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs

from msgspec import Meta
from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.channels import jsontext
from pushserver.channels.idempotency import REMEMBERED_SECONDS, check_key
from pushserver.channels.names import check_event
from pushserver.channels.publication import Receipt
from pushserver.errors import InvalidData, NotJSON, PushServerError
from pushserver.sources.http_client.headers import is_header_name, shown_name
from pushserver.sources.interface import Feed, IHook, ISource, SourceFailed
from pushserver.sources.types.source_type import BuiltInType
from pushserver.sources.types.webhook.signatures import (
    Encoding,
    NotSigned,
    Scheme,
    Signed,
    Slack,
    Stamped,
    StandardWebhooks,
    Token,
    Unsigned,
    standard_key,
)
from pushserver.web.body import check_coding, media_type, read_body
from pushserver.web.resource import Refusal

MAX_SECRET_BYTES = 4_096
MAX_TOLERANCE_SECONDS = REMEMBERED_SECONDS / 2 - 5.0
"""A request from a clock that is ahead stays valid for twice this time, and its key must be
remembered as long; the 5 s are for the time between the check and the publication."""
Tolerance = Annotated[float, Meta(gt=0, le=MAX_TOLERANCE_SECONDS)]

_FORM = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source beside the common ones."""

    signature: Literal[
        "github", "hub-sha256", "slack", "standard-webhooks", "stripe", "plain", "token", "none"
    ]
    """How the sender is verified; `none`: every request is accepted."""
    secret: str = field(default="", repr=False)
    secret_file: str = ""
    """A file with the secret; trailing white space is ignored."""
    header: str = ""
    """For `plain` and `token`: the header with the signature or the token."""
    prefix: str = ""
    """For `plain` and `token`: the text before the signature or the token."""
    encoding: Encoding = "hex"
    """For `plain`: the encoding of the signature."""
    tolerance_seconds: Tolerance = MAX_TOLERANCE_SECONDS
    """For `slack`, `standard-webhooks`, `stripe`: the most that the sender's time may differ."""
    id_header: str = ""
    """The header with the id of the delivery; a repeated id is published once."""
    event_header: str = ""
    """The header with the name of the event."""


@implementer(ISource, IHook)
class WebhookSource:
    """Publishes each request with a valid signature.

    Requests do not wait: one above the rate gets 429, and one that cannot be published now 503.
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
        try:
            receipt = await self._publish(headers, body)
            if isinstance(receipt, str):
                return 200, {"challenge": receipt}
        except PushServerError as error:
            if not error.http_status:
                raise
            status = error.http_status
            return status, {"error": {"code": status, "message": str(error)}}
        return 201, {"offset": receipt.offset, "epoch": receipt.epoch, "id": receipt.id}

    async def _publish(self, headers: Mapping[str, str], body: bytes) -> Receipt | str:
        """Publish the body, or return Slack's challenge, which checks that the URL is ours."""
        feed = self._feed
        if feed is None:
            raise SourceFailed("the source of this webhook is not running")
        try:
            signed = self._scheme.check(self._secret, headers, body)
        except NotSigned as error:
            feed.trouble(f"a request was refused: {error}")
            raise
        event = _header(headers, self._options.event_header, check_event)
        key = _header(headers, self._options.id_header, check_key)
        if feed.delay() > 0:
            raise Refusal(429, "more requests than max_rate allows: come again in a second")
        check_coding(headers.get("content-encoding", ""))
        value = _value(headers.get("content-type", ""), body)
        if self._options.signature == "slack" and (challenge := _challenge(value)):
            return challenge
        # `signed` first: the header with the id of the delivery is not signed, so it must not
        # make a replayed request look new.
        return await feed.publish(value, event, key=check_key(signed) if signed else key)


def _header(headers: Mapping[str, str], header: str, check: Callable[[str], str]) -> str:
    """Return the checked value of the header, or an empty string without it."""
    value = headers.get(header.lower(), "") if header else ""
    return check(value) if value else ""


def _value(content_type: str, body: bytes) -> object:
    """Return the value of the body: JSON, a form with JSON in the field `payload`, or text."""
    is_form = media_type(content_type) == _FORM
    return read_body(content_type, body, _json, _form_value if is_form else str)


def _challenge(value: object) -> str:
    """Return the challenge that Slack sends when the URL is entered, or an empty string."""
    if not isinstance(value, dict) or value.get("type") != "url_verification":
        return ""
    challenge = value.get("challenge")
    return challenge if isinstance(challenge, str) else ""


def _form_value(form: str) -> object:
    field = _payload(form)
    if field is None:
        return form
    try:
        return _json(field)
    except NotJSON as error:
        raise NotJSON(f"the field payload is not JSON: {error}") from None


def _json(text: bytes) -> object:
    try:
        return jsontext.decode(text)
    except NotJSON:
        raise
    except InvalidData as error:
        raise InvalidData(f"the body cannot be published: {error}") from None


def _payload(form: str) -> bytes | None:
    """Return the field `payload`, or None without it."""
    try:
        fields = parse_qs(form, keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError as error:
        raise InvalidData(f"the body is not a valid form: {error}") from None
    values = fields.get("payload", [])
    if len(values) > 1:
        raise InvalidData(f"the form has {len(values)} fields payload, expected one with JSON")
    return values[0].encode() if values else None


def _secret(options: Options) -> bytes:
    """Return the secret, from its file if there is one; raises SourceFailed."""
    if not options.secret_file:
        return options.secret.encode()
    try:
        with Path(options.secret_file).open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1).rstrip()
    except OSError as error:
        raise SourceFailed(f"{options.secret_file}: {error.strerror or error}") from None
    if not 0 < len(secret) <= MAX_SECRET_BYTES:
        problem = f"expected 1 to {MAX_SECRET_BYTES} bytes"
        raise SourceFailed(f"{options.secret_file}: no secret, {problem}")
    if options.signature == "standard-webhooks":
        try:
            standard_key(secret)
        except ValueError as error:
            raise SourceFailed(f"{options.secret_file}: no secret, {error}") from None
    return secret


def _make(options: Options) -> WebhookSource:
    _check_secret(options)
    _check_headers(options)
    return WebhookSource(options, _scheme(options))


def _check_secret(options: Options) -> None:
    count = bool(options.secret) + bool(options.secret_file)
    if options.signature == "none" and count:
        raise ValueError('secret: expected no secret with signature = "none"')
    if options.signature != "none" and count != 1:
        raise ValueError("secret: expected either secret or secret_file")
    if options.secret and not options.secret.strip():
        raise ValueError("secret: it is blank, expected the secret of the sender")
    if options.signature == "standard-webhooks" and options.secret:
        try:
            standard_key(options.secret.encode())
        except ValueError as error:
            raise ValueError(f"secret: {error}") from None
    if "\0" in options.secret_file:
        raise ValueError("secret_file: expected the path of a file, without a NUL character")


def _check_headers(options: Options) -> None:
    for key in ("header", "id_header", "event_header"):
        value = getattr(options, key)
        if value and not is_header_name(value):
            raise ValueError(f"{key}: {shown_name(value)}, expected the name of a header")
    own = options.signature in ("plain", "token")
    if own and not options.header:
        raise ValueError(f'header: must be set for signature = "{options.signature}"')
    for key in ("header", "prefix"):
        if getattr(options, key) and not own:
            raise ValueError(f'{key}: expected only with signature = "plain" or "token"')


def _scheme(options: Options) -> Scheme:
    if options.signature in ("github", "hub-sha256"):
        return Signed("X-Hub-Signature-256", "sha256=")
    if options.signature == "stripe":
        return Stamped(options.tolerance_seconds, time.time)
    if options.signature == "slack":
        return Slack(options.tolerance_seconds, time.time)
    if options.signature == "standard-webhooks":
        return StandardWebhooks(options.tolerance_seconds, time.time)
    if options.signature == "plain":
        return Signed(options.header, options.prefix, options.encoding)
    if options.signature == "token":
        return Token(options.header, options.prefix)
    return Unsigned()


WEBHOOK = BuiltInType(Options, _make)
