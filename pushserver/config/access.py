"""Warnings about rules that nobody can satisfy, and about addresses that let everybody in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Any

from pushserver.config.settings import Auth, Config

_ACTIONS = ("subscribe", "publish", "history", "presence")
_BY_IDENTITY = ("users", "token")

WIDEST = {4: 8, 6: 16}
"""The shortest prefix of a network of trusted proxies without a warning, by version of IP."""

_UNIQUE_LOCAL = IPv6Network("fc00::/7")
_PART = re.compile(r"\[[^]]*\]|(?:\\.|[^:\\])+")
"""A part of an endpoint, between colons without a backslash; or an IPv6 address in brackets."""


def access_warnings(config: Config, application: bool) -> Iterator[str]:
    """A line for each such setting; `application`: whether one may identify peers."""
    if not (application or _has_tokens(config.auth)):
        remedy = (
            "set auth.token_secret or another key of tokens, or run an application with"
            " authenticate or connect"
        )
        for setting in _rules(config, _BY_IDENTITY):
            yield f"{setting} is for users, and nothing says who a peer is: {remedy}"
        if config.auth.personal_channels:
            yield f"auth.personal_channels needs users, and nothing says who a peer is: {remedy}"
        if config.auth.closed and not (config.auth.keys or config.auth.api_keys):
            yield f"auth.closed is set, and there is neither a key nor a token: {remedy}"
    if not application:
        for setting in _rules(config, ("handler",)):
            yield (
                f"{setting} lets an application decide, and without one nobody may: run one with"
                " --app, or set another rule"
            )
    if _is_reachable(config.server.metrics_listen):
        yield (
            f"server.metrics_listen: {config.server.metrics_listen} may be reached from other"
            " machines, and /metrics asks for no key there: expected an address of loopback or of"
            " your own network"
        )
    for text in config.server.trusted_proxies:
        if _is_wide(text):
            yield (
                f"server.trusted_proxies: {text} has addresses of the public internet, whose"
                " forwarding headers would count: expected the networks of your proxies"
            )


def _has_tokens(auth: Auth) -> bool:
    return bool(auth.token_secret or auth.token_keys or auth.jwks_file or auth.jwks_url)


def _rules(config: Config, wanted: Collection[str]) -> Iterator[str]:
    """The settings that have one of these rules."""
    defaults = {action: getattr(config.defaults, action) for action in _ACTIONS}
    tables: list[tuple[str, Mapping[str, Any]]] = [("defaults", defaults)]
    tables += [(f"namespaces.{name}", options) for name, options in config.namespaces.items()]
    tables += [(f"channels.{name}", options) for name, options in config.channels.items()]
    for name, options in tables:
        for action in _ACTIONS:
            rule = options.get(action)
            if rule in wanted:
                yield f'{name}.{action} = "{rule}"'


def _is_reachable(listen: str) -> bool:
    """Whether an address to listen on is of TCP, and neither of loopback nor a private one."""
    if not listen or listen.isdigit() or listen.startswith(("unix:", "systemd:")):
        return False
    for part in _PART.findall(listen):
        host = part.removeprefix("interface=").replace("\\", "").strip("[]")
        if host == "localhost":
            return False
        with suppress(ValueError):
            address = ip_address(host.partition("%")[0])
            return address.is_unspecified or not address.is_private
    # A name, or all addresses of the machine.
    return True


def _is_wide(text: str) -> bool:
    try:
        network = ip_network(text)
    except ValueError:
        return False
    if isinstance(network, IPv6Network) and network.subnet_of(_UNIQUE_LOCAL):
        return False
    return network.prefixlen < WIDEST[network.version]
