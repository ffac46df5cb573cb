"""`type = "random"`: random numbers, to have something to look at."""

from __future__ import annotations

from dataclasses import dataclass
from random import random
from typing import Any

from twisted.plugin import IPlugin
from zope.interface import implementer

from pushserver.config.limits import Positive
from pushserver.sources.functions.adapt import adapt
from pushserver.sources.interface import ISourceType


@dataclass(frozen=True, slots=True)
class Options:
    """`every`: how many seconds lie between two numbers."""

    every: Positive = 2.0


def random_number() -> dict[str, float]:
    """A number from 0 to 10 with three decimals."""
    return {"number": round(random() * 10, 3)}


@implementer(IPlugin, ISourceType)
class Random:
    """The type `random`."""

    name = "random"
    options = Options
    extra = ""

    def make(self, options: Options) -> Any:
        return adapt(random_number, options.every, thread=False)


RANDOM = Random()
