"""Verifies the sender of a webhook's request by a header."""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from pushserver.errors import PushServerError

Encoding = Literal["hex", "base64"]

_SECONDS = re.compile(r"[0-9]{1,12}")


class NotSigned(PushServerError):
    """The sender is not verified; the text names the header and the reason."""

    http_status = 401


class Scheme(Protocol):
    """A scheme of signatures."""

    def check(self, secret: bytes, headers: Mapping[str, str], body: bytes) -> str:
        """Raise NotSigned, or return a text that identifies this request alone, or "".

        The names of the headers are in lower case.
        """


@dataclass(frozen=True, slots=True)
class Signed:
    """A header with a prefix and the HMAC-SHA256 of the body."""

    header: str
    prefix: str = ""
    encoding: Encoding = "hex"

    def check(self, secret: bytes, headers: Mapping[str, str], body: bytes) -> str:
        signature = _value(headers, self.header, self.prefix)
        mac = hmac.digest(secret, body, "sha256")
        if self.encoding == "hex":
            expected, signature = mac.hex(), signature.lower()
        else:
            expected = base64.b64encode(mac).decode()
        if not _same(signature, expected):
            raise NotSigned(f"the signature in {self.header} does not fit the body and the secret")
        # Equal bodies have equal signatures.
        return ""


@dataclass(frozen=True, slots=True)
class Stamped:
    """`Stripe-Signature: t=SECONDS,v1=HEX`: the HMAC-SHA256 of the time, a dot and the body.

    There may be several v1 while a secret is being replaced. `clock` returns Unix seconds.
    """

    tolerance_seconds: float
    clock: Callable[[], float]
    header: str = "Stripe-Signature"

    def check(self, secret: bytes, headers: Mapping[str, str], body: bytes) -> str:
        pairs = [part.strip().partition("=") for part in _value(headers, self.header).split(",")]
        times = [value for name, _, value in pairs if name == "t"]
        signatures = [value for name, _, value in pairs if name == "v1"]
        if len(times) != 1 or _SECONDS.fullmatch(times[0]) is None or not signatures:
            raise NotSigned(f"{self.header} is not of the form t=SECONDS,v1=HEX")
        signed = b"%b.%b" % (times[0].encode(), body)
        expected = hmac.digest(secret, signed, "sha256").hex()
        if not any(_same(value.lower(), expected) for value in signatures):
            raise NotSigned(f"the signature in {self.header} does not fit the body and the secret")
        _check_time(self.header, times[0], self.clock(), self.tolerance_seconds)
        return expected


@dataclass(frozen=True, slots=True)
class Slack:
    """`X-Slack-Signature: v0=HEX`: the HMAC-SHA256 of `v0:`, the time, a colon and the body."""

    tolerance_seconds: float
    clock: Callable[[], float]

    def check(self, secret: bytes, headers: Mapping[str, str], body: bytes) -> str:
        header, time_header = "X-Slack-Signature", "X-Slack-Request-Timestamp"
        signature = _value(headers, header, "v0=").lower()
        seconds = _seconds(headers, time_header)
        signed = b"v0:%b:%b" % (seconds.encode(), body)
        expected = hmac.digest(secret, signed, "sha256").hex()
        if not _same(signature, expected):
            raise NotSigned(f"the signature in {header} does not fit the body and the secret")
        _check_time(time_header, seconds, self.clock(), self.tolerance_seconds)
        return expected


@dataclass(frozen=True, slots=True)
class StandardWebhooks:
    """`webhook-signature: v1,BASE64`: the HMAC-SHA256 of the id, the time and the body, with dots.

    There may be several signatures, separated by blanks, while a secret is being replaced.
    """

    tolerance_seconds: float
    clock: Callable[[], float]

    def check(self, secret: bytes, headers: Mapping[str, str], body: bytes) -> str:
        header, time_header = "webhook-signature", "webhook-timestamp"
        signatures = _value(headers, header).split()
        message_id = _value(headers, "webhook-id")
        seconds = _seconds(headers, time_header)
        signed = b"%b.%b.%b" % (_bytes(message_id), seconds.encode(), body)
        mac = hmac.digest(standard_key(secret), signed, "sha256")
        expected = "v1," + base64.b64encode(mac).decode()
        if not any(_same(signature, expected) for signature in signatures):
            raise NotSigned(f"the signature in {header} does not fit the body and the secret")
        _check_time(time_header, seconds, self.clock(), self.tolerance_seconds)
        # The same id is sent again, with a new time, if the answer was lost.
        return message_id or expected


def standard_key(secret: bytes) -> bytes:
    """Return the key in a secret of Standard Webhooks; raises ValueError."""
    try:
        key = base64.b64decode(secret.removeprefix(b"whsec_"), validate=True)
    except ValueError:
        key = b""
    if not key:
        raise ValueError("expected base64, with or without whsec_ before it")
    return key


@dataclass(frozen=True, slots=True)
class Token:
    """A header with a prefix and the secret itself."""

    header: str
    prefix: str = ""

    def check(self, secret: bytes, headers: Mapping[str, str], body: bytes) -> str:
        if not hmac.compare_digest(_bytes(_value(headers, self.header, self.prefix)), secret):
            raise NotSigned(f"the token in {self.header} is not the secret")
        return ""


class Unsigned:
    """Accepts every request."""

    def check(self, secret: bytes, headers: Mapping[str, str], body: bytes) -> str:
        return ""


def _seconds(headers: Mapping[str, str], header: str) -> str:
    value = _value(headers, header)
    if _SECONDS.fullmatch(value) is None:
        raise NotSigned(f"{header} is not a time in seconds")
    return value


def _check_time(header: str, seconds: str, now: float, tolerance_seconds: float) -> None:
    if abs(now - int(seconds)) > tolerance_seconds:
        raise NotSigned(
            f"the time in {header} is more than {tolerance_seconds:g} s"
            " (tolerance_seconds) from the time here"
        )


def _value(headers: Mapping[str, str], header: str, prefix: str = "") -> str:
    value = headers.get(header.lower())
    if value is None:
        raise NotSigned(f"there is no {header} header")
    if not value.startswith(prefix):
        raise NotSigned(f"{header} does not begin with {prefix!r}")
    return value.removeprefix(prefix)


def _same(signature: str, expected: str) -> bool:
    return hmac.compare_digest(_bytes(signature), expected.encode())


def _bytes(text: str) -> bytes:
    # A header was decoded as latin-1; other characters can never match.
    return text.encode("latin-1", "replace")
