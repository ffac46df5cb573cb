"""The head of the answer of a WSGI application, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from twisted.web.http import NO_BODY_CODES, RESPONSES

from pushserver.web.pipeline import LENGTH_DIGITS

_STATUS = re.compile(r"([2-5][0-9][0-9])(?: ([^\x00-\x08\x0a-\x1f\x7f]*))?")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
"""A reason, a name and a value of RFC 9110 (5.1, 5.5); none of them has a line break."""

_OF_THE_SERVER = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"),
        *("upgrade", "server", "date"),
    }
)
"""Headers that the server sets: those of one connection (PEP 3333), its name and the date."""


@dataclass(frozen=True, slots=True)
class Head:
    """The status, the headers, and the length of the body (None if it is not announced)."""

    status: int
    reason: bytes
    headers: Sequence[tuple[bytes, bytes]]
    length: int | None

    @property
    def has_body(self) -> bool:
        """Whether an answer of this status may have a body."""
        return self.status not in NO_BODY_CODES


def make_head(status: Any, headers: Any) -> Head:
    """Check the arguments of `start_response`; raises TypeError and ValueError.

    Headers that the server sets itself are left out.
    """
    if not isinstance(status, str):
        raise TypeError(f"the status is {status!r:.80}, expected a str such as '200 OK'")
    match = _STATUS.fullmatch(status)
    if match is None:
        raise ValueError(f"the status is {status!r:.80}, expected one such as '200 OK'")
    number, reason = int(match[1]), match[2]
    if not isinstance(headers, Sequence) or isinstance(headers, str | bytes):
        raise TypeError(f"the headers are {headers!r:.80}, expected a list of (name, value)")
    fields, length = [], None
    for header in headers:
        name, value = _checked(header)
        lower = name.lower()
        if lower in _OF_THE_SERVER:
            continue
        if lower == "content-length":
            if length is not None:
                raise ValueError("there are two headers Content-Length, expected one")
            length = _length(value)
            value = str(length)
        fields.append((name.encode("ascii"), value.strip(" \t").encode("latin-1")))
    text = RESPONSES.get(number, b"Status") if reason is None else _encode("status", reason)
    return Head(number, text, fields, length)


def _checked(header: Any) -> tuple[str, str]:
    if not isinstance(header, Sequence) or isinstance(header, str | bytes) or len(header) != 2:
        raise TypeError(f"a header is {header!r:.80}, expected (name, value)")
    name, value = header
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"a header is {(name, value)!r:.80}, expected two str")
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"a header has the name {name!r:.80}, expected letters, digits and -")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(
            f"the header {name:.80} has the value {value!r:.80}, expected no control characters"
        )
    _encode(f"header {name:.80}", value)
    return name, value


def _encode(name: str, text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"the {name} has {text!r:.80}, expected latin-1 characters") from None


def _length(value: str) -> int:
    text = value.strip(" \t")
    if not (text.isascii() and text.isdigit() and len(text) <= LENGTH_DIGITS):
        raise ValueError(f"the header Content-Length is {value!r:.80}, expected a number of bytes")
    return int(text)
