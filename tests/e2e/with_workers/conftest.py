from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.server import WORKERS


@pytest.fixture(scope="module", autouse=True)
def with_workers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(WORKERS, "2")
        yield
