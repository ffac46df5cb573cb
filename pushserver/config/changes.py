"""Compares two configurations: the settings that changed, and those that need a restart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pushserver.config.settings import Config

NAMED = ("namespaces", "channels", "sources")
"""Tables by names of the user; a change in one of them is named by its table."""

RESTART = frozenset(
    {
        "broker.ca",
        "broker.name",
        "broker.prefix",
        "broker.shards",
        "broker.url",
        "limits.handler_threads",
        "limits.wsgi_threads",
        "limits.wsgi_waiting",
        "log.format",
        "server.listen",
        "server.metrics_listen",
        "server.proxy_protocol",
        "server.workers",
        "server.wsgi",
        "store.commit_milliseconds",
        "store.durability",
        "store.mode",
        "store.path",
    }
)
"""The settings that need a restart; a reload applies all others."""


def changes(before: Config, after: Config) -> Iterator[str]:
    """The settings with another value: `limits.channels`, `sources.numbers`, ..."""
    for section in (field.name for field in dataclasses.fields(Config)):
        old, new = getattr(before, section), getattr(after, section)
        for name, value in _values(section, old, new):
            if value[0] != value[1]:
                yield f"{section}.{name}"


def _values(section: str, old: Any, new: Any) -> Iterator[tuple[str, tuple[object, object]]]:
    if section in NAMED:
        tables: tuple[Mapping[str, object], Mapping[str, object]] = old, new
        for name in sorted({*old, *new}):
            yield name, (tables[0].get(name), tables[1].get(name))
    else:
        for field in dataclasses.fields(old):
            yield field.name, (getattr(old, field.name), getattr(new, field.name))


def needs_restart(setting: str) -> bool:
    """Whether a reload leaves the setting as it is."""
    return setting in RESTART


def applicable(before: Config, after: Config) -> Config:
    """The later configuration with the earlier values of the settings that need a restart.

    It has the earlier `trusted_proxies`, too, while `proxy_protocol` still needs them.
    """
    for setting in filter(needs_restart, changes(before, after)):
        section, _, name = setting.partition(".")
        value = getattr(getattr(before, section), name)
        changed = dataclasses.replace(getattr(after, section), **{name: value})
        after = dataclasses.replace(after, **{section: changed})
    if after.server.proxy_protocol and not after.server.trusted_proxies:
        # Without them, the port would refuse every connection of the proxies until the restart.
        proxies = before.server.trusted_proxies
        server = dataclasses.replace(after.server, trusted_proxies=proxies)
        after = dataclasses.replace(after, server=server)
    return after
