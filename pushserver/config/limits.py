"""The limits of the server, with their units in their names."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from msgspec import Meta

AtLeastOne = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0, le=31_536_000)]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for one peer and for all peers. Times are in seconds, sizes in bytes."""

    frame_bytes: AtLeastOne = 65_536
    """The size of a WebSocket frame and message from a client."""
    body_bytes: AtLeastOne = 1_048_576
    """The size of the body of an HTTP request."""
    request_seconds: AtLeastOne = 15
    """The time for a request to arrive, head and body together, and the time that a response may
    wait while none of it is sent."""
    queue_bytes: AtLeastOne = 1_048_576
    """The bytes that may wait for a peer that does not read; four times as many drop it at once."""
    queue_seconds: Positive = 10.0
    """The time without progress after which a peer with more than `queue_bytes` is dropped."""
    slow_bytes_per_second: AtLeastOne = 16_384
    """The rate of reading that counts as progress; at half of it, the time is twice as long."""
    unsent_bytes: AtLeastOne = 268_435_456
    """The memory of all bytes that wait for peers that do not read; beyond it those with most bytes
    are dropped."""
    connect_seconds: Positive = 15.0
    """The time for the first command of a connection."""
    ping_seconds: Positive = 25.0
    """The interval of pings to a connection."""
    pong_seconds: Positive = 8.0
    """The time for the answer to a ping on the Centrifuge protocol."""
    dead_seconds: Positive = 20.0
    """The time for the answer to a ping on a raw WebSocket."""
    heartbeat_seconds: Positive = 20.0
    """The interval of heartbeats on an SSE or NDJSON stream."""
    connections: AtLeastOne = 50_000
    """The open connections in all."""
    connections_per_address: AtLeastOne = 1_000
    """The open connections of one address; of IPv6, of a network of 64 bits."""
    connections_per_user: AtLeastOne = 100
    """The open sessions and streams of one user."""
    new_connections_per_second: AtLeastOne = 50
    """The new connections of one address a second; four times as many at once."""
    exempt_networks: list[str] = field(default_factory=lambda: ["127.0.0.0/8", "::1", "unix"])
    """The addresses without bounds of one address, on new connections and on requests."""
    channels_per_client: AtLeastOne = 128
    """The number of channels that one connection may subscribe to."""
    channels: AtLeastOne = 100_000
    """The number of channels that are watched or have publications."""
    history_total_bytes: AtLeastOne = 268_435_456
    """The memory of the histories of all channels, roughly."""
    idempotency_keys: AtLeastOne = 200_000
    """The number of publications with an idempotency key in five minutes."""
    idempotency_keys_per_publisher: AtLeastOne = 100_000
    """Those of one API key, else of one user, else of one address."""
    control_frames_per_second: AtLeastOne = 100
    """The pings, pongs and continuation frames of one WebSocket a second; ten times as many at
    once."""
    commands_per_second: AtLeastOne = 200
    """The commands of one client of the Centrifuge protocol a second; ten times as many at once."""
    requests_per_second: AtLeastOne = 500
    """The requests of one HTTP connection a second; ten times as many at once."""
    user_publications_per_second: AtLeastOne = 50
    """The publications of one user a second; ten times as many at once, as for the next two."""
    address_publications_per_second: AtLeastOne = 500
    """The publications of one address a second, without those with an API key."""
    key_publications_per_second: AtLeastOne = 10_000
    """The publications with one API key a second."""
    refused_requests_per_second: AtLeastOne = 10
    """The refused requests of one HTTP connection a second; ten times as many at once."""
    token_bytes: AtLeastOne = 16_384
    """The length of a token."""
    wrong_keys_per_minute: AtLeastOne = 30
    """The wrong API keys and tokens of one address a minute, and at once; each further one waits a
    second for its answer."""
    queued_commands: AtLeastOne = 256
    """The number of commands of one connection that may wait."""
    waiting_bytes: AtLeastOne = 67_108_864
    """The memory of all commands and packets of clients that wait; beyond it those with more than
    16 KB are disconnected."""
    handler_seconds: Positive = 30.0
    """The time for a handler of the application to answer a client."""
    handler_threads: AtLeastOne = 16
    """The number of threads for handlers of the application that are plain functions."""
    wsgi_threads: AtLeastOne = 20
    """The number of threads for requests to the WSGI application."""
    wsgi_waiting: AtLeastOne = 100
    """The number of requests to the WSGI application that may wait for a thread."""
    announced_audience: AtLeastOne = 100
    """The number of subscribers of a channel up to which joins and leaves are announced."""
    read_limit: AtLeastOne = 10_000
    """The highest `last` and `limit` of a reader."""
    wait_seconds: AtLeastOne = 60
    """The longest `wait` of a long-poll."""
    drain_seconds: Positive = 4.0
    """The time that a stopping server waits for its peers to disconnect."""


def of_worker(limits: Limits, workers: int) -> Limits:
    """The limits of one of several workers: its part of the memory for all clients.

    A part has room for what one client may need, however many workers there are. The other limits
    are those of a single process: the processes count together (`cluster.shared_bounds`), or only
    the main process has what is bounded.
    """
    return replace(
        limits,
        unsent_bytes=_part(limits.unsent_bytes, workers, limits.queue_bytes),
        waiting_bytes=_part(limits.waiting_bytes, workers, limits.frame_bytes),
    )


def _part(total: int, parts: int, least: int) -> int:
    return max(total // parts, min(total, least))
