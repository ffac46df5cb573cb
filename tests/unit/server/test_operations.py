"""docs/operations.md: its tables have each alert and each error, and names that exist."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from pushserver.channels.channel import ChannelOptions
from pushserver.config import settings
from pushserver.config.limits import Limits

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "operations.md").read_text("utf-8")
ACTIONS = PAGE.partition("\n## What to do when\n")[2]
RULES = (DOCS / "monitoring" / "rules.yml").read_text("utf-8")
METRICS = (DOCS / "monitoring.md").read_text("utf-8")

EVENTS = dict(
    re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", (DOCS / "log.md").read_text("utf-8"), re.MULTILINE)
)
"""The levels of each event."""

OF_THE_PROCESS = {"process_open_fds"}


def test_each_alert_has_an_action_in_the_order_of_the_rules() -> None:
    alerts = re.findall(r"^\| `(Pushserver\w+)` \| .+ \| .+ \|$", ACTIONS, re.MULTILINE)
    assert alerts == re.findall(r"- alert: (\w+)", RULES) != []


def test_each_error_that_is_not_one_of_the_server_has_an_action() -> None:
    errors = {name for name, levels in EVENTS.items() if levels == "error"}
    assert {name for name in errors if f"`{name}`" not in ACTIONS} == set()
    assert errors


def test_each_event_setting_and_metric_of_an_action_exists() -> None:
    kinds = (Limits, ChannelOptions, settings.Server, settings.Store, settings.Source)
    known = {field.name for kind in kinds for field in fields(kind)} | set(EVENTS)
    known |= OF_THE_PROCESS | set(re.findall(r"^\| `(\w+)` \|", METRICS, re.MULTILINE))
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", ACTIONS))
    assert named - known == set()
    assert named


def test_each_row_has_an_action() -> None:
    rows = [line.strip("| ").split(" | ") for line in ACTIONS.splitlines() if line[:1] == "|"]
    assert [row for row in rows if len(row) != 3 or not all(map(str.strip, row))] == []


def test_the_memory_of_the_service_is_that_of_its_unit() -> None:
    unit = (DOCS.parent / "systemd" / "pushserver.service").read_text("utf-8")
    [most] = re.findall(r"^MemoryMax=(\d+)M$", unit, re.MULTILINE)
    assert f"allows {most} MB" in PAGE
    assert f"at most {most} MB of memory" in (DOCS / "systemd.md").read_text("utf-8")
