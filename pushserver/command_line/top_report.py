"""The report of `pushserver top`: the load of a server, and its rates since an earlier answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Report = dict[str, Any]
"""Values for JSON."""

MAX_CHARACTERS = 512
"""The longest text of an answer; the names of channels have 255 at most."""

_COUNTERS = ("publications", "deliveries", "delivered_bytes", "slow", "gaps")
_LABELLED = ("refusals", "denied")
"""Counters with labels, of which the report has the sum."""


def make_report(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> Report:
    """The report of an answer to `/api/top`; `before` is an earlier answer, for the rates.

    Rates are per second of the server's steady clock, and null without an earlier answer of the
    same run of the server. Raises ValueError, TypeError, KeyError, AttributeError or OverflowError
    for an answer that is not one of pushserver.
    """
    uptime = float(now["uptime"])
    if before is not None and not _is_same_run(before, now):
        before = None
    seconds = 0.0 if before is None else uptime - float(before["uptime"])
    totals = _totals(now)
    earlier = {} if before is None else _totals(before)
    rates = {name: _rate(count, earlier.get(name), seconds) for name, count in totals.items()}
    return {
        "time": float(now["time"]),
        "version": _text(now["version"]),
        "uptime": uptime,
        "seconds": round(seconds, 3) if before is not None else None,
        "clients": int(now["num_clients"]),
        "users": int(now["num_users"]),
        "subscriptions": int(now["num_subs"]),
        "watched_channels": int(now["num_channels"]),
        "connections": [
            {
                "transport": _text(row["transport"]),
                "protocol": _text(row["protocol"]),
                "count": int(row["count"]),
            }
            for row in now["connections"]
        ],
        "totals": totals,
        "rates": rates,
        "channels": _channels(now, before, seconds),
        "unsent": {name: int(now["unsent"][name]) for name in ("clients", "bytes", "most")},
        "readers": [_reader(row) for row in now["readers"]],
        "sources": [_source(row) for row in now["sources"]],
    }


def _is_same_run(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    # With a store, a server has the same uid after a restart.
    return bool(before["uid"] == now["uid"]) and float(before["uptime"]) < float(now["uptime"])


def _totals(answer: Mapping[str, Any]) -> dict[str, int]:
    items = answer["metrics"]["items"]
    totals = {name: int(items[name]) for name in _COUNTERS}
    for name in _LABELLED:
        counts = (count for key, count in items.items() if key.startswith(f"{name}."))
        totals[name] = sum(int(count) for count in counts)
    return totals


def _rate(count: int, earlier: int | None, seconds: float) -> float | None:
    if earlier is None or seconds <= 0 or count < earlier:
        return None
    return round((count - earlier) / seconds, 3)


def _channels(
    now: Mapping[str, Any], before: Mapping[str, Any] | None, seconds: float
) -> list[Report]:
    offsets = {}
    for row in () if before is None else before["channels"]:
        offsets[row["channel"], row["epoch"]] = int(row["offset"])
    rows = []
    for row in now["channels"]:
        earlier = offsets.get((row["channel"], row["epoch"]))
        rate = _rate(int(row["offset"]), earlier, seconds)
        subscribers = int(row["num_clients"])
        rows.append(
            {
                "channel": _text(row["channel"]),
                "subscribers": subscribers,
                "publications": rate,
                "deliveries": None if rate is None else round(rate * subscribers, 3),
            }
        )
    return rows


def _reader(row: Mapping[str, Any]) -> Report:
    texts = ("address", "transport", "protocol", "client", "user")
    seconds = row["seconds"]
    return {
        **{name: _text(row[name]) for name in texts},
        "bytes": int(row["bytes"]),
        "seconds": None if seconds is None else float(seconds),
    }


def _source(row: Mapping[str, Any]) -> Report:
    texts = ("name", "kind", "channel", "state", "last_error")
    numbers = ("published", "errors", "restarts")
    return {
        **{name: _text(row[name]) for name in texts},
        **{name: int(row[name]) for name in numbers},
        "rate": float(row["rate"]),
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value[:MAX_CHARACTERS]
