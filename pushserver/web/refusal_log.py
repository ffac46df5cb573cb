"""Logs refused requests with the address, the URL and the reason, at a bounded rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from twisted.logger import Logger
from twisted.web.server import Request

from pushserver.auth.wrong_keys import group
from pushserver.diagnosis.recent_refusals import RecentRefusals
from pushserver.usercode.rate import Rate

PER_SECOND = 0.5
AT_ONCE = 3
"""Lines for one status and one address."""

MAX_ADDRESSES = 1_000
"""Addresses that are limited separately; the one that was seen least recently is forgotten."""

ALL_PER_SECOND = 10
"""Lines a second for all."""

REASON_CHARACTERS = 500
PATH_CHARACTERS = 200


class RefusalLog:
    """The log of one server; `address` gives the client's, None on a Unix socket.

    A line has the number of refusals since the last line that were not logged. The address comes
    before all that the peer may choose, so that a line cannot name another one (docs/security.md
    has a filter for fail2ban). The query is left out, as it may have secrets. `counts` are the
    counters of refusals by status or code, and `recent` remembers their causes, whether logged or
    not.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Callable[[], float],
        address: Callable[[Request], str | None],
        counts: Counter[str],
        recent: RecentRefusals,
    ):
        self.recent = recent
        self._counts = counts
        self._clock = clock
        self.address = address
        self._rates: dict[tuple[int, str], Rate] = {}
        self._all = Rate(ALL_PER_SECOND)
        self._suppressed = 0

    def write(self, request: Request, status: int, reason: str) -> None:
        """Log one refusal, or count it if there are too many."""
        method = _escaped(request.method.decode("latin-1"), 20)
        path = _escaped(request.path.decode("latin-1"), PATH_CHARACTERS)
        self._write(status, self.address(request), f"{method} {path}: ", reason)

    def write_command(self, code: int, address: str | None, reason: str) -> None:
        """Log a refused command or CONNECT of a client, by its error or close code."""
        self._write(code, address, "", reason)

    def _write(self, status: int, address: str | None, target: str, reason: str) -> None:
        self._counts[str(status)] += 1
        self.recent.note(status, address, reason)
        if not self._has_room(status, group(address)):
            self._suppressed += 1
            return
        suppressed, self._suppressed = self._suppressed, 0
        self._log.info(
            "refused {status} to {address}: {target}{reason}{suffix}",
            status=status,
            address=address or "unix",
            target=target,
            reason=_escaped(reason, REASON_CHARACTERS),
            suffix=f" (and {suppressed} that were not logged)" if suppressed else "",
            event_name="refused",
        )

    def write_excess(self, code: int, address: str | None, reason: str) -> None:
        """Log an excess; `Excesses` limits the lines."""
        self._log.info(
            "refused {code} to {address}: {reason}",
            code=code,
            address=address or "unix",
            reason=_escaped(reason, REASON_CHARACTERS),
            event_name="refused_excess",
        )

    def _has_room(self, status: int, address: str) -> bool:
        now = self._clock()
        rate = self._rates.pop((status, address), None) or Rate(PER_SECOND, AT_ONCE)
        self._rates[status, address] = rate
        if len(self._rates) > MAX_ADDRESSES:
            del self._rates[next(iter(self._rates))]
        return rate.allows(now) and self._all.allows(now)


def _escaped(text: str, most: int) -> str:
    """The text without control characters, cut."""
    return repr(text[:most])[1:-1]
