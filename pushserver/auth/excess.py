"""Counts and logs the peers that exceed a bound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from pushserver.auth.wrong_keys import group
from pushserver.errors import TooMany
from pushserver.usercode.rate import LOGGED_AT_ONCE, WINDOW_SECONDS

Write = Callable[[int, str | None, str], None]
"""Logs a refusal: the status or close code that the peer gets, its address, and the reason."""


class Excesses:
    """The excesses over the bounds of one server, by setting.

    The log has a line a minute for each setting and address, and LOGGED_AT_ONCE for each setting;
    a line ends with the number of excesses since the last one that were not logged. `counts` are
    the counters of refusals; `clock` is the steady clock. `remember` gets each excess, `write`
    those that are logged.
    """

    def __init__(
        self,
        counts: Counter[str],
        clock: Callable[[], float],
        write: Write,
        remember: Write = lambda *_: None,
    ):
        self._remember = remember
        self._counts = counts
        self._clock = clock
        self._write = write
        self._since = clock()
        self._logged: dict[str, set[str]] = {}
        self._suppressed: Counter[str] = Counter()

    def note(self, error: TooMany, address: str | None, code: int = 0) -> None:
        """Count an excess, and log it; `code` is a close code, else the status is logged."""
        setting = error.setting
        self._counts[setting] += 1
        self._remember(code or error.http_status, address, str(error))
        now = self._clock()
        if now - self._since >= WINDOW_SECONDS:
            self._since = now
            self._logged.clear()
        addresses = self._logged.setdefault(setting, set())
        name = group(address)
        if name in addresses or len(addresses) >= LOGGED_AT_ONCE:
            self._suppressed[setting] += 1
            return
        addresses.add(name)
        suppressed = self._suppressed.pop(setting, 0)
        suffix = f" (and {suppressed} that were not logged)" if suppressed else ""
        self._write(code or error.http_status, address, f"{error}{suffix}")
