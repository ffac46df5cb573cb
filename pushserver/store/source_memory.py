"""Remembers one small JSON value for each source, for its next start."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from pushserver.channels import jsontext
from pushserver.errors import InvalidData

MOST_BYTES = 65_536


class SourceMemory:
    """The values by the names of sources, and the names of those not yet written to the store.

    `changed` is called when there is a value to write. A value is never written before the
    publications that were made before it was set: one commit takes both.
    """

    def __init__(self, changed: Callable[[], object] = lambda: None) -> None:
        self._values: dict[str, bytes] = {}
        self._untaken: set[str] = set()
        self._changed = changed

    def get(self, name: str) -> object | None:
        """Return a copy of the value of this name, None if there is none."""
        text = self._values.get(name)
        return None if text is None else json.loads(text)

    def set(self, name: str, value: object) -> None:
        """Set the value of this name.

        Raises InvalidData for a value that JSON cannot hold, and for more than MOST_BYTES.
        """
        text = jsontext.encode(value)
        if len(text) > MOST_BYTES:
            raise InvalidData(
                f"{name} is to remember {len(text)} bytes of JSON; expected at most {MOST_BYTES}"
            )
        if self._values.get(name) == text:
            return
        self._values[name] = text
        self._untaken.add(name)
        self._changed()

    def restore(self, values: Iterable[tuple[str, bytes]]) -> None:
        """Set values from the store."""
        self._values.update(values)

    @property
    def waits(self) -> bool:
        """Whether there is a value to write."""
        return bool(self._untaken)

    def take(self) -> dict[str, bytes]:
        """Return the values, as JSON text, that were set since the last call."""
        taken = {name: self._values[name] for name in self._untaken}
        self._untaken.clear()
        return taken

    def put_back(self, taken: dict[str, bytes]) -> None:
        """Let the next `take` return these values, which were not written, or newer ones."""
        self._untaken.update(taken)
