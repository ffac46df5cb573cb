"""The part of the time that one piece of somebody else's code may take."""

from __future__ import annotations

MOST_SECONDS = 1.0
SHARE = 0.25
"""It takes `MOST_SECONDS` at once, and this part of the time in the long run."""
TOO_MUCH = f"takes more than {SHARE:.0%} of the time of the server"


class Share:
    """The seconds that something took; they are forgotten at the rate of SHARE."""

    __slots__ = ("_at", "_seconds")

    def __init__(self) -> None:
        self._at = 0.0
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count these seconds."""
        self._seconds += seconds

    def is_used_up(self, now: float) -> bool:
        """Whether it has taken too much by this time of the steady clock."""
        self._seconds = max(0.0, self._seconds - SHARE * (now - self._at))
        self._at = now
        return self._seconds > MOST_SECONDS
