"""Makes the bounds on peers from the settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pushserver.auth.excess import Excesses
from pushserver.auth.proxies import Proxies
from pushserver.auth.publications import Publications
from pushserver.auth.quotas import Addresses, Connections
from pushserver.config.limits import Limits
from pushserver.diagnosis.recent_refusals import RecentRefusals
from pushserver.hub.metrics import Metrics
from pushserver.transports.backlog import Bounds
from pushserver.transports.unsent import Unsent
from pushserver.usercode.reactor import Reactor
from pushserver.web.admission import Admission
from pushserver.web.checks import client_address
from pushserver.web.refusal_log import RefusalLog


@dataclass(frozen=True, slots=True)
class PeerBounds:
    """The bounds on peers, and the log of those that exceed them."""

    refusals: RefusalLog
    excesses: Excesses
    addresses: Addresses
    connections: Connections
    admission: Admission
    publications: Publications
    unread: Bounds

    def reconfigure(self, limits: Limits, proxies: Proxies) -> None:
        """Change the bounds in place: open connections keep their counts and use the new ones."""
        address_of = partial(client_address, proxies=proxies)
        self.refusals.address = address_of
        self.admission.address = address_of
        self.addresses.reconfigure(Proxies.of(limits.exempt_networks), proxies)
        self.connections.reconfigure(
            limits.connections, limits.connections_per_address, limits.new_connections_per_second
        )
        self.publications.reconfigure(
            limits.user_publications_per_second,
            limits.key_publications_per_second,
            limits.address_publications_per_second,
        )
        self.unread.bytes = limits.queue_bytes
        self.unread.seconds = limits.queue_seconds
        self.unread.slow_bytes_per_second = limits.slow_bytes_per_second
        self.unread.unsent.most = limits.unsent_bytes


def make_bounds(
    limits: Limits,
    proxies: Proxies,
    metrics: Metrics,
    reactor: Reactor,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    shortcuts: bool,
) -> PeerBounds:
    """The bounds of one server; `metrics` counts its refusals, `clock` returns Unix seconds."""
    address_of = partial(client_address, proxies=proxies)
    recent = RecentRefusals(clock)
    refusals = RefusalLog(monotonic, address_of, metrics.denied, recent)
    excesses = Excesses(metrics.refusals, monotonic, refusals.write_excess, recent.note)
    addresses = Addresses(Proxies.of(limits.exempt_networks), proxies)
    connections = Connections(
        limits.connections, limits.connections_per_address, limits.new_connections_per_second
    )
    publications = Publications(
        addresses,
        limits.user_publications_per_second,
        limits.key_publications_per_second,
        limits.address_publications_per_second,
        monotonic,
    )
    unread = Bounds(
        limits.queue_bytes,
        limits.queue_seconds,
        monotonic,
        shortcuts,
        limits.slow_bytes_per_second,
        Unsent(limits.unsent_bytes, partial(reactor.callLater, 0)),
    )
    admission = Admission(addresses, connections, excesses, monotonic, address_of)
    return PeerBounds(refusals, excesses, addresses, connections, admission, publications, unread)
