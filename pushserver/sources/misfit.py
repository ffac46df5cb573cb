"""Finds what in a value JSON cannot hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import islice

from pushserver.channels import jsontext
from pushserver.channels.jsontext import MAX_DEPTH, InvalidData

_SHOWN_STEPS = 8


def encode(value: object) -> bytes:
    """The compact JSON text of a value; raises InvalidData that says what in it is wrong."""
    try:
        return jsontext.encode(value)
    except InvalidData as error:
        steps, inner, problem = list[str](), value, error
        while len(steps) <= MAX_DEPTH and (found := _inside(inner)) is not None:
            step, inner, problem = found
            steps.append(step)
        if not steps or len(steps) > MAX_DEPTH:
            raise
        more = "..." if len(steps) > _SHOWN_STEPS else ""
        place = "".join(islice(steps, _SHOWN_STEPS)) + more
        raise InvalidData(f"{problem} (at {place} of what was to be published)") from None


def _inside(value: object) -> tuple[str, object, InvalidData] | None:
    """The first part of a container that does not fit, where it is, and why."""
    for key, part in _parts(value):
        try:
            jsontext.encode(part)
        except InvalidData as error:
            return key, part, error
    return None


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """What is in it, with the step to it."""
    if isinstance(value, Mapping):
        yield from ((f"[{key!r:.40}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{number}]", part) for number, part in enumerate(value))
    elif isinstance(value, (set, frozenset)):
        # No number: it would be another one each time, and so another failure for the log.
        yield from (("{...}", part) for part in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield f".{field.name}", getattr(value, field.name, None)
