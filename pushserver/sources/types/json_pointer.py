"""JSON Pointer (RFC 6901): a path into a JSON document."""

from __future__ import annotations

import re

_INDEX = re.compile(r"0|[1-9][0-9]*")
_LONGEST_INDEX = 18


class NotThere(LookupError):
    """The document has no value at the path; the text is the part that does not exist."""


class Pointer:
    """A path such as `/rates/EUR`; the empty path is the whole document.

    Each step is a key, or an index into a list from 0; in a key `~1` is a slash and `~0` a
    tilde. Raises ValueError for an invalid path.
    """

    def __init__(self, text: str):
        if text and not text.startswith("/"):
            raise ValueError(f"{text!r:.80}, expected a path that begins with a slash")
        if re.search(r"~(?![01])", text):
            raise ValueError(f"{text!r:.80}, expected ~ only as ~0 (a tilde) or ~1 (a slash)")
        self.text = text
        self._steps = [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]

    def get(self, document: object) -> object:
        """Return the value at the path; raises NotThere."""
        value = document
        for number, step in enumerate(self._steps, 1):
            if isinstance(value, dict) and step in value:
                value = value[step]
            elif isinstance(value, list) and _is_index(step) and int(step) < len(value):
                value = value[int(step)]
            else:
                raise NotThere("/".join(self.text.split("/")[: number + 1]))
        return value


def _is_index(step: str) -> bool:
    return len(step) <= _LONGEST_INDEX and _INDEX.fullmatch(step) is not None
