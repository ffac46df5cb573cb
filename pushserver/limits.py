"""The server's bounds, with their units in their names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer, and all together, may cost. Times in seconds, sizes in bytes."""

    frame_bytes: int = 65_536
    """The longest WebSocket frame and message that a client may send."""
    body_bytes: int = 1_048_576
    """The longest body of an HTTP request."""
    request_seconds: int = 15
    """How long a request may take to arrive, head and body together."""
    queue_bytes: int = 1_048_576
    """What may wait for one peer that does not read, before it is dropped."""
    connect_seconds: float = 15.0
    """How long a connection may last without its first command."""
    ping_seconds: float = 25.0
    """How long a connection may be silent before it is asked whether it is alive."""
    pong_seconds: float = 8.0
    """How long the answer to that may take on the Centrifuge protocol."""
    dead_seconds: float = 20.0
    """How long the answer to that may take on a raw WebSocket."""
    heartbeat_seconds: float = 20.0
    """How often a silent SSE or NDJSON stream is shown to be alive."""
    channels_per_client: int = 128
    """How many channels one connection may be subscribed to."""
    queued_commands: int = 256
    """How many commands of one connection may wait for their turn."""
    announced_audience: int = 100
    """Joins and leaves are told to everybody only in channels that at most so many watch."""
    drain_seconds: float = 4.0
    """How long a stopping server waits for its peers to go."""
