"""A finding of `pushserver doctor` and `/status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about `subject`.

    `fix`: lines to paste into a configuration, or a command; only a finding with the level `ok`
    may be without one.
    """

    level: Level
    subject: str
    text: str
    fix: str = ""
