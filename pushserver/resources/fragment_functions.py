"""Functions of the application that make HTML of publications."""

from __future__ import annotations

import html
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pushserver.channels.names import namespace_of
from pushserver.channels.publication import Publication
from pushserver.usercode.stopwatch import Stopwatch

REMEDY = "compute the slow part before you publish"
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class PublicationView:
    """A publication, as templates and functions see it; `time` is in Unix seconds."""

    channel: str
    event: str
    data: Any
    offset: int
    id: str
    time: float
    tags: dict[str, str]

    @classmethod
    def of(cls, row: Publication) -> PublicationView:
        """The view of a publication, with objects of its own."""
        data, tags = _decode(row.data), dict(row.tags or {})
        return cls(row.channel, row.event, data, row.offset, row.id, round(row.time, 3), tags)


class FragmentFunction:
    """Calls a function with a publication, for its HTML; raises ValueError for another function.

    A str is escaped. An object with `__html__`, such as a Markup, is HTML as it is; None is no
    fragment.
    """

    def __init__(self, function: Any):
        self.name = getattr(function, "__qualname__", repr(function))
        self._function = function
        if isinstance(function, type) or not callable(function):
            raise ValueError(f"{self.name} makes no fragments: expected a function")
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ValueError(
                f"{self.name} is async: expected a plain function, since a fragment is sent at once"
            )
        try:
            inspect.signature(function).bind(None)
        except TypeError as error:
            raise ValueError(f"{self.name} is called with the publication: {error}") from None
        self._stopwatch = Stopwatch(f"the fragment function {self.name}", False, remedy=REMEDY)

    def __call__(self, publication: PublicationView) -> str:
        """The HTML of a publication; raises TypeError, and any exception of the function."""
        made = self._stopwatch.call(self._function, publication)
        if made is None:
            return ""
        if hasattr(made, "__html__"):
            return str(made.__html__())
        if isinstance(made, str):
            return html.escape(made)
        kind = type(made).__name__
        raise TypeError(f"{self.name} returned {kind}, expected a Markup, a str or None")


@dataclass(frozen=True, slots=True)
class FunctionsOfChannels:
    """The functions of an application, by the names of their channels and namespaces."""

    channels: Mapping[str, FragmentFunction] = field(default_factory=dict)
    namespaces: Mapping[str, FragmentFunction] = field(default_factory=dict)

    def get(self, channel: str) -> FragmentFunction | None:
        """The function of this channel: its own, or else that of its namespace."""
        return self.channels.get(channel) or self.namespaces.get(namespace_of(channel))
