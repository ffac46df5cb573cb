from __future__ import annotations

import re

from pushserver.sessions.node import new_client


def test_an_id_of_a_connection_cannot_be_guessed_and_fits_into_a_url() -> None:
    ids = {new_client() for _ in range(1_000)}
    assert len(ids) == 1_000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16,}", client) for client in ids)
