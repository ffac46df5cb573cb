"""Rules for the headers of HTTP that a user writes into the configuration."""

from __future__ import annotations

import re

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 9110 (5.5) allows more; all servers and proxies accept this.
_VALUE = re.compile(r"[\x20-\x7e]*")
_OUR_OWN = ("connection", "content-length", "transfer-encoding", "upgrade", "accept-encoding")


def is_header_name(name: str) -> bool:
    """Whether the text is a field name of HTTP (RFC 9110, 5.1)."""
    return _NAME.fullmatch(name) is not None


def shown_name(name: str) -> str:
    """What stands for a name, for errors, without a value that follows it."""
    match = re.match(r"[\w-]*", name)
    word = match[0] if match else ""
    return repr(f"{word}..." if word != name else name)[:80]


def check_header(name: str, value: str) -> None:
    """Raise ValueError unless a source may send this header; the text never has the value."""
    if not is_header_name(name) or name.lower() in _OUR_OWN:
        raise ValueError(f"headers: {shown_name(name)} cannot be sent")
    if _VALUE.fullmatch(value) is None:
        raise ValueError(f"headers: {name}: expected printable ASCII")
