"""The part of a built-in type of sources that is imported only when the type is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BuiltInType:
    """The `options` and `make` of an ISourceType; `registry.BuiltIn` has its name and extra."""

    options: type
    make: Callable[[Any], Any]
