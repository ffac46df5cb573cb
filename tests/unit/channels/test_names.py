"""Names of channels: tests/channel_names.json is the table, also for static/js/naming.js."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pushserver.channels.names import check_event, check_name, check_namespace, is_name
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


@pytest.mark.parametrize("value", [5, None, b"numbers", ["numbers"], 1.5])
def test_a_value_that_is_no_text_is_refused_with_the_rule(value: Any) -> None:
    for check in (check_name, check_namespace, check_event):
        with pytest.raises(InvalidName, match=f"invalid .* {re.escape(repr(value))}: expected"):
            check(value)
