"""One server for many clients."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.exchange import serving
from tests.e2e.server import Server

CONFIG = """
[sources]

[limits]
# Readers with a time limit for each read need heartbeats.
heartbeat_seconds = 0.5

[auth]
token_secret = "a secret of the tests, which is long enough"

[namespaces.open]
client_publish = true

[namespaces.members]
subscribe = "token"
publish = "users"

[channels.short]
history_size = 2
"""


SECRET = tomllib.loads(CONFIG)["auth"]["token_secret"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.path.name != "test_fields.py":
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests of this folder, which use channels of their own."""
    with serving(tmp_path_factory.mktemp("peers"), CONFIG) as server:
        yield server
