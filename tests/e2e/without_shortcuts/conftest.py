from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.server import SHORTCUTS


@pytest.fixture(scope="module", autouse=True)
def without_shortcuts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(SHORTCUTS, "off")
        yield
