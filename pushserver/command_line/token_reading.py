"""Reads a token without verifying it, and shows its claims in words."""

from __future__ import annotations

import json
import re
import sys
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from pushserver.errors import CommandFailed

MAX_TOKEN = 1_000_000
"""In characters."""

_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_LATEST = 100_000_000_000
"""The year 5138 in seconds, and 1973 in milliseconds."""
_TIMES = {
    "exp": "the end",
    "nbf": "not valid before",
    "iat": "made",
    "expire_at": "the end of the subscription",
}
_MEANINGS = {
    "sub": "the user",
    "channels": "channels that it permits",
    "channel": "the one channel of a subscription",
    "subs": "subscriptions that the server makes",
    "info": "seen by other clients",
    "aud": "for this service",
    "iss": "made by",
}
_UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


def given(argument: str) -> str:
    """The token of the command line, or of standard input for `-`; raises CommandFailed."""
    text = argument
    if argument == "-":
        try:
            text = "" if sys.stdin is None else sys.stdin.read(MAX_TOKEN + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise CommandFailed(f"standard input: {error}") from None
    text = text.strip().removeprefix("Bearer ").strip()
    if len(text) > MAX_TOKEN:
        raise CommandFailed(f"the token has more than {MAX_TOKEN} characters")
    return text


def parts(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head and the claims of a token that is not verified; raises CommandFailed."""
    if _FORM.fullmatch(text) is None:
        count = text.count(".") + 1
        got = "five: it is encrypted" if count == 5 else f"{count} in {len(text)} characters"
        raise CommandFailed(
            "expected a JSON Web Token, which has three parts in base64url with dots between, got"
            f" {got if text else 'nothing'}"
        )
    head, body, _ = text.split(".")
    return _object(head, "head"), _object(body, "claims")


def _object(part: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError) as error:
        raise CommandFailed(f"the {name} of the token cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise CommandFailed(f"the {name} of the token is {value!r:.60}, expected an object")
    return value


def claim_lines(claims: dict[str, Any], now: float) -> Iterator[str]:
    """A line for each claim, times as times; `now` is in Unix seconds."""
    for name, value in claims.items():
        if name in _TIMES:
            yield f"{name}: {in_json(value)}, {_TIMES[name]}: {moment(value, now)}"
        else:
            meaning = f" ({_MEANINGS[name]})" if name in _MEANINGS else ""
            yield f"{name}: {in_json(value)}{meaning}"
    if "exp" not in claims:
        yield "no exp: the token has no end"


def moment(value: object, now: float) -> str:
    """Unix seconds as a date in UTC, and as a time from `now`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "no number, expected Unix seconds"
    if not 0 <= value < _LATEST:
        hint = "; these may be milliseconds" if _LATEST <= value < _LATEST * 1000 else ""
        return f"no time of this age, expected Unix seconds{hint}"
    date = datetime.fromtimestamp(int(value), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"{date}, {span(value - now)}"


def span(seconds: float) -> str:
    """A time from now in its largest unit: `in 59 minutes`, `2 days ago`."""
    size = abs(seconds)
    unit, word = next((each for each in _UNITS if size >= each[0]), _UNITS[-1])
    count = int(size // unit)
    text = f"{count} {word}{'' if count == 1 else 's'}"
    return f"in {text}" if seconds >= 0 else f"{text} ago"


def in_json(value: object) -> str:
    """The value as JSON, with its letters as they are."""
    return json.dumps(value, ensure_ascii=False)
