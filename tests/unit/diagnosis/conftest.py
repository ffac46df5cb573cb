"""The document with the blocks for proxies."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def proxies_document() -> str:
    """The text of docs/proxies.md."""
    return (Path(__file__).parents[3] / "docs" / "proxies.md").read_text()
