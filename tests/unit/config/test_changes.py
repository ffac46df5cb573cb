"""The comparison of two configurations."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from pushserver.config.changes import NAMED, RESTART, applicable, changes, needs_restart
from pushserver.config.loader import _SECTIONS, load
from pushserver.config.settings import Config, Source
from pushserver.sources.registry import SourceTypes

SETTINGS = [
    f"{section}.{field.name}"
    for section, kind in _SECTIONS.items()
    for field in dataclasses.fields(kind)
]
DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def changed(setting: str) -> Config:
    """The default configuration with another value of one setting."""
    section, name = setting.split(".")
    table: Any = dataclasses.replace(getattr(Config(), section), **{name: {"app": "debug"}})
    return dataclasses.replace(Config(), **{section: table})


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_setting_is_applied_or_kept_and_named(setting: str) -> None:
    config = changed(setting)
    assert [*changes(Config(), config)] == [setting]
    kept = applicable(Config(), config)
    assert kept == (Config() if needs_restart(setting) else config)


def test_settings_that_need_a_restart_exist() -> None:
    assert set(SETTINGS) >= RESTART


@pytest.mark.parametrize("section", NAMED)
def test_a_table_by_name_is_one_change(section: str) -> None:
    value: Any = Source("random", "news") if section == "sources" else {"initial": 3}
    other: Any = Source("random", "sport") if section == "sources" else {"initial": 4}
    tables: list[Any] = [{"a": value, "gone": value}, {"a": other, "new": value}]
    before, after = (dataclasses.replace(Config(), **{section: table}) for table in tables)
    assert [*changes(before, after)] == [f"{section}.{name}" for name in ("a", "gone", "new")]
    assert applicable(before, after) == after


def test_proxies_stay_trusted_while_the_port_still_reads_their_header() -> None:
    text = "[server]\nproxy_protocol = true\ntrusted_proxies = ['10.0.0.1']"
    before, after = load(text, "f", {}, SourceTypes()), load("", "f", {}, SourceTypes())
    kept = applicable(before, after)
    assert kept == before
    assert [*changes(kept, after)] == ["server.trusted_proxies", "server.proxy_protocol"]
    other = load(text.replace("10.0.0.1", "10.0.0.2"), "f", {}, SourceTypes())
    assert applicable(before, other) == other


def test_some_settings_apply_although_others_of_their_section_need_a_restart() -> None:
    before = load("[server]\nlisten = ['tcp:1']\n[store]\nmode = '600'", "f", {}, SourceTypes())
    text = "[server]\nlisten = ['tcp:2']\nnames = ['push.example']\n[store]\nmode = '640'"
    after = load(text, "f", {}, SourceTypes())
    kept = applicable(before, after)
    assert (kept.server.listen, kept.server.names) == (["tcp:1"], ["push.example"])
    assert [*changes(kept, after)] == ["server.listen", "store.mode"]
    assert [*changes(before, kept)] == ["server.names"]


def test_the_document_says_of_each_setting_whether_it_needs_a_restart() -> None:
    said: dict[str, bool] = {}
    headings = {
        "server",
        "auth",
        "store",
        "broker",
        "page",
        "log",
        "socketio",
        "channels",
        "limits",
    }
    section = ""
    for line in DOCUMENT.read_text("utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:].lower().replace(".", "")
        row = re.match(r"\| `([a-z_]+)` \|", line)
        if row and section in headings:
            name = "defaults" if section == "channels" else section
            said[f"{name}.{row[1]}"] = "Needs a restart" in line
    assert said == {setting: needs_restart(setting) for setting in SETTINGS}
