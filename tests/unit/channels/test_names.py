"""Names of channels: tests/channel_names.json is the table, also for static/js/naming.js."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pushserver.channels.names import check_name, is_name
from pushserver.errors import InvalidName

TABLE = Path(__file__).resolve().parents[2] / "channel_names.json"
NAMES: dict[str, list[str]] = json.loads(TABLE.read_text("utf-8"))


@pytest.mark.parametrize("name", NAMES["valid"])
def test_a_valid_name(name: str) -> None:
    assert check_name(name) == name
    assert is_name(name)


@pytest.mark.parametrize("name", NAMES["invalid"])
def test_an_invalid_name_is_refused_with_the_rule(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidName, match="expected 1 to 128 characters"):
        check_name(name)
