"""`type = "random"`: random numbers for demonstrations."""

from __future__ import annotations

from dataclasses import dataclass
from random import random
from typing import Any

from pushserver.config.limits import Positive
from pushserver.sources.functions.adapt import adapt
from pushserver.sources.types.source_type import BuiltInType


@dataclass(frozen=True, slots=True)
class Options:
    """The keys of the table of the source; `every` is the interval in seconds."""

    every: Positive = 2.0


def random_number() -> dict[str, float]:
    """Return a number from 0 to 10 with three decimals."""
    return {"number": round(random() * 10, 3)}


def _make(options: Options) -> Any:
    return adapt(random_number, options.every, thread=False)


RANDOM = BuiltInType(Options, _make)
