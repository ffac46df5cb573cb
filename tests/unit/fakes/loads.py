"""Answers to `/api/top`, as `pushserver top` gets them."""

from __future__ import annotations

from typing import Any


def load(uptime: float = 60.0, **changes: Any) -> dict[str, Any]:
    """The answer of a server with one of everything."""
    counters = {"publications": 10, "deliveries": 20, "delivered_bytes": 3_000, "slow": 1}
    items = {
        **counters,
        "gaps": 0,
        "refusals.wrong_key": 2,
        "refusals.channels": 1,
        "denied.403": 4,
    }
    return {
        "uid": "7c2e94d1",
        "version": "pushserver 1.2.3",
        "time": 1_795_000_000.25,
        "uptime": uptime,
        "num_clients": 3,
        "num_users": 2,
        "num_subs": 5,
        "num_channels": 4,
        "metrics": {"interval": 0.0, "items": items},
        "connections": [{"transport": "sse", "protocol": "plain", "count": 3}],
        "channels": [channel("a", 2, 7)],
        "unsent": {"clients": 1, "bytes": 1_500, "most": 10_000},
        "readers": [reader()],
        "sources": [source()],
        **changes,
    }


def channel(name: str, subscribers: int = 0, offset: int = 0, epoch: str = "e") -> dict[str, Any]:
    return {"channel": name, "num_clients": subscribers, "offset": offset, "epoch": epoch}


def reader(**changes: Any) -> dict[str, Any]:
    return {
        "address": "192.0.2.7:5000",
        "transport": "websocket",
        "protocol": "plain",
        "client": "c",
        "user": "ada",
        "bytes": 1_500,
        "seconds": 2.5,
        **changes,
    }


def source(**changes: Any) -> dict[str, Any]:
    return {
        "name": "numbers",
        "kind": "random",
        "channel": "numbers",
        "state": "running",
        "last_error": "",
        "published": 3,
        "errors": 0,
        "restarts": 0,
        "rate": 0.5,
        **changes,
    }
