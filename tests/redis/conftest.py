"""A server of Redis for one test, and one for many tests that leave it empty."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis.crew import Crew
from tests.redis.promises import account
from tests.redis.server import RedisServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def crew() -> Crew:
    """The nodes, publishers and readers of a test."""
    return Crew()


@pytest.fixture(autouse=True)
def account_of_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compares what a test of a fault has found with the table of docs/scaling.md."""
    crew = request.getfixturevalue("crew") if "crew" in request.fixturenames else None
    yield
    for mark in request.node.iter_markers("fault"):
        request.node.user_properties.append(("fault", account(mark.args[0], crew)))


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for one test, which may kill and restart it; it saves only if it is told to."""
    with RedisServer(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests of a module."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server
