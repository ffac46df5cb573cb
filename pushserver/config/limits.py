"""The server's bounds, with their units in their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

AtLeastOne = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0, le=31_536_000)]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer, and all together, may cost. Times in seconds, sizes in bytes."""

    frame_bytes: AtLeastOne = 65_536
    """The longest WebSocket frame and message that a client may send."""
    body_bytes: AtLeastOne = 1_048_576
    """The longest body of an HTTP request."""
    request_seconds: AtLeastOne = 15
    """How long a request may take to arrive, head and body together; and how long an answer
    may wait without any of it leaving."""
    queue_bytes: AtLeastOne = 1_048_576
    """What may wait for one peer that does not read; four times that at once drops it."""
    queue_seconds: Positive = 10.0
    """How long more than that may wait before the peer is dropped."""
    connect_seconds: Positive = 15.0
    """How long a connection may last without its first command."""
    ping_seconds: Positive = 25.0
    """How often a connection is asked whether it is alive."""
    pong_seconds: Positive = 8.0
    """How long the answer to that may take on the Centrifuge protocol."""
    dead_seconds: Positive = 20.0
    """How long the answer to that may take on a raw WebSocket."""
    heartbeat_seconds: Positive = 20.0
    """How often an SSE or NDJSON stream is shown to be alive."""
    channels_per_client: AtLeastOne = 128
    """How many channels one connection may be subscribed to."""
    idempotency_keys: AtLeastOne = 100_000
    """How many publications with an idempotency key there may be in five minutes."""
    queued_commands: AtLeastOne = 256
    """How many commands of one connection may wait for their turn."""
    handler_seconds: Positive = 30.0
    """How long a handler of the application may take to answer a client."""
    handler_threads: AtLeastOne = 16
    """How many plain functions of the application may answer clients at one time."""
    announced_audience: AtLeastOne = 100
    """Joins and leaves are told to everybody only in channels that at most so many watch."""
    read_limit: AtLeastOne = 10_000
    """The highest `last` and `limit` that a reader may ask for."""
    wait_seconds: AtLeastOne = 60
    """The longest `wait` of a long-poll."""
    drain_seconds: Positive = 4.0
    """How long a stopping server waits for its peers to go."""
