"""A publication inside the server that shows whether the fan-out delivers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pushserver.channels.publication import ClientInfo, Publication
from pushserver.hub.audience import Audience, Outlet
from pushserver.hub.fanout import FanOut
from pushserver.hub.metrics import Metrics
from pushserver.protocols.formats import Format


def _encode(publications: Sequence[Publication]) -> bytes:
    return b"." * len(publications)


_FORMAT = Format("probe", _encode, 1003)
_PUBLICATION = Publication("", "", 0, 0, 0.0, "", b"null")


class Probe:
    """The one subscriber of an audience without a channel; takes its turn behind all others.

    Nothing of it is in a history, in the list of channels or in the counters.
    """

    info = ClientInfo("")
    format = _FORMAT
    outlet: Outlet | None = None

    def __init__(self, fan_out: FanOut, metrics: Metrics):
        self.audiences: dict[str, Audience] = {}
        self._fan_out = fan_out
        self._metrics = metrics
        self._audience = Audience("", {})
        self._audience.add(self)
        self._delivered: Callable[[], object] | None = None

    @property
    def waits(self) -> bool:
        """Whether a publication was sent, and has not been delivered."""
        return self._delivered is not None

    def start(self, delivered: Callable[[], object]) -> None:
        """Send a publication; calls `delivered` when it arrives, perhaps before this returns.

        Also while an earlier one waits: a pass that failed has dropped that, or it counts for both.
        """
        self._delivered = delivered
        if not self._audience.queue:
            self._fan_out.put(self._audience, _PUBLICATION)
        self._fan_out.resume()

    def send(self, frame: bytes) -> None:
        delivered, self._delivered = self._delivered, None
        # The fan-out counts each delivery and its bytes after its `send`.
        self._metrics.deliveries -= 1
        self._metrics.delivered_bytes -= len(frame)
        if delivered is not None:
            delivered()

    def insufficient(self, channel: str) -> None:
        """No-op: it has no channel."""
