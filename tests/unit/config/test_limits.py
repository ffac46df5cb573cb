from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.config.limits import Limits, of_worker

ONE = "of one connection, client, request, channel or reader"
TOGETHER = "all processes count and charge together"
PART = "each worker has a part"
MAIN = "the main process has all of them; a worker has copies of some channels"

SCOPES = {
    "frame_bytes": ONE,
    "body_bytes": ONE,
    "request_seconds": ONE,
    "queue_bytes": ONE,
    "queue_seconds": ONE,
    "slow_bytes_per_second": ONE,
    "unsent_bytes": PART,
    "connect_seconds": ONE,
    "ping_seconds": ONE,
    "pong_seconds": ONE,
    "dead_seconds": ONE,
    "heartbeat_seconds": ONE,
    "connections": TOGETHER,
    "connections_per_address": TOGETHER,
    "connections_per_user": TOGETHER,
    "new_connections_per_second": TOGETHER,
    "exempt_networks": ONE,
    "channels_per_client": ONE,
    "channels": MAIN,
    "history_total_bytes": MAIN,
    "idempotency_keys": MAIN,
    "idempotency_keys_per_publisher": MAIN,
    "control_frames_per_second": ONE,
    "commands_per_second": ONE,
    "requests_per_second": ONE,
    "user_publications_per_second": TOGETHER,
    "address_publications_per_second": TOGETHER,
    "key_publications_per_second": TOGETHER,
    "refused_requests_per_second": ONE,
    "token_bytes": ONE,
    "wrong_keys_per_minute": TOGETHER,
    "queued_commands": ONE,
    "waiting_bytes": PART,
    "handler_seconds": ONE,
    "handler_threads": MAIN,
    "wsgi_threads": MAIN,
    "wsgi_waiting": MAIN,
    "announced_audience": ONE,
    "read_limit": ONE,
    "wait_seconds": ONE,
    "drain_seconds": ONE,
}
"""What each limit means for a server of several processes."""


def test_every_limit_is_above_zero() -> None:
    limits = Limits()
    for bound in fields(Limits):
        if bound.name != "exempt_networks":
            assert getattr(limits, bound.name) > 0, bound.name


def test_limits_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Limits().queue_bytes = 0  # type: ignore[misc]


def test_workers_have_parts_of_the_limits_that_they_do_not_count_together() -> None:
    limits = Limits()
    part = of_worker(limits, 4)
    names = [bound.name for bound in fields(Limits)]
    assert names == list(SCOPES)
    changed = [name for name in names if getattr(part, name) != getattr(limits, name)]
    assert changed == [name for name, scope in SCOPES.items() if scope == PART]
    assert (part.unsent_bytes, part.waiting_bytes) == (67_108_864, 16_777_216)
    assert of_worker(limits, 1) == limits


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(1, 128))
def test_part_of_a_worker_has_room_for_one_client(total: int, client: int, workers: int) -> None:
    limits = replace(
        Limits(),
        unsent_bytes=total,
        queue_bytes=client,
        waiting_bytes=total,
        frame_bytes=client,
    )
    part = of_worker(limits, workers)
    for one in (part.unsent_bytes, part.waiting_bytes):
        assert one >= min(total, client)
        assert one == min(total, client) or one * workers <= total
