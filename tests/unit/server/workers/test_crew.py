from __future__ import annotations

from pushserver.config.limits import Limits
from pushserver.config.settings import Config
from pushserver.server.workers.crew import worker_config


def test_workers_share_out_the_memory_for_clients() -> None:
    limits = worker_config(Config(limits=Limits(unsent_bytes=8_000_000)), 4).limits
    assert limits == Limits(unsent_bytes=2_000_000, waiting_bytes=Limits().waiting_bytes // 4)
