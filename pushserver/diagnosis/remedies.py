"""Lines for the configurations of the server and of proxies, against a refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields

from pushserver.config.limits import Limits
from pushserver.config.settings import Auth, Server
from pushserver.diagnosis.proxies import UNKNOWN, Fault, Proxy

SETTINGS = {
    field.name: f"{section}.{field.name}"
    for section, kind in (("limits", Limits), ("auth", Auth), ("server", Server))
    for field in fields(kind)
}
"""The sections of the settings that refusals name."""

LOG = "journalctl -u pushserver -n 50"
"""Shows the last lines of the log of a unit."""
_ELSEWHERE = "  # or look into the server's terminal or log file"
_NEW_TOKEN = (
    "pushserver token new USER --config FILE  # or app.token(), or that of your login; a reader"
    " sends it as Authorization: Bearer TOKEN, a page by the option getToken of connect()"
)

_PROXY_HEADER = """\
# haproxy.cfg, at the server of the backend:
send-proxy-v2"""
_WITHOUT_HEADER = "[server]\nproxy_protocol = false"
_NEW_KEY = (
    "pushserver key new --name NAME --may publish  # or read, or admin, as the request needs;"
    " its users send the key as X-API-Key"
)

_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_WORD = re.compile(r"[a-z_]+(?:\.[a-z_]+)?")
_SENT = re.compile(r"(Host|X-Forwarded-Proto): ")
_PAGE = re.compile(r"a page of '([^']*)' may not use")
_HOST = re.compile(r"'([^']*)' is not a name of this server")
_PROXY = re.compile(r"if ([0-9A-Fa-f.:]+|None) is the server's proxy")


def setting_of(reason: str) -> str:
    """The first setting that a reason names, with its section; empty if there is none.

    A word without its section counts if it can be no ordinary word: with an underscore, or alone
    in parentheses.
    """
    plain = _QUOTED.sub("", reason)
    for match in _WORD.finditer(plain):
        section, _, name = match[0].rpartition(".")
        known = SETTINGS.get(name, "")
        alone = plain[match.start() - 1 : match.end() + 1] == f"({name})"
        if known and ((section and known == match[0]) or (not section and (alone or "_" in name))):
            return known
    return ""


def configured(setting: str, value: object) -> str:
    """The lines of the configuration file that give a setting this value."""
    section, _, name = setting.rpartition(".")
    return f"[{section}]\n{name} = {json.dumps(value)}"


def remedy(
    status: int,
    reason: str,
    limits: Mapping[str, object],
    address: str = "",
    proxy: Proxy = UNKNOWN,
) -> str:
    """The text to paste against a refusal of a peer with this address.

    `limits`: the present values of `[limits]`; a limit in the remedy is twice its value.
    `proxy`: the one in front.
    """
    setting = setting_of(reason)
    if page := _PAGE.search(reason):
        return _for_page(page[1], reason, proxy)
    if near := _PROXY.search(reason):
        return configured("server.trusted_proxies", [_address(near[1])])
    if "not one of trusted_proxies" in reason:
        return configured("server.trusted_proxies", [address])
    if "is one of trusted_proxies" in reason:
        return f"{_PROXY_HEADER}\n# or, if no proxy sends one:\n{_WITHOUT_HEADER}"
    if host := _HOST.search(reason):
        return configured("server.names", [re.sub(r":[0-9]+\Z", "", host[1])])
    if status == 426 or "Upgrade" in reason or "HTTP/1.0" in reason:
        return proxy.fix("Upgrade")
    section, _, name = setting.rpartition(".")
    value = limits.get(name)
    if section == "limits" and isinstance(value, (int, float)):
        return configured(setting, value * 2)
    if re.search(r" needs (?:a user|a token) ", f"{reason} "):
        return _NEW_TOKEN
    if "token" in reason:
        return "pushserver token check TOKEN --config FILE"
    if section == "auth" or " needs an API key" in reason:
        return _NEW_KEY
    return f"{LOG} | grep 'refused {status}'{_ELSEWHERE}"


def _for_page(origin: str, reason: str, proxy: Proxy) -> str:
    """A page that may not connect is another site's, or the server's own behind a proxy."""
    allowed = configured("server.allowed_origins", [origin])
    other = f"# if this page may connect, in the configuration:\n{allowed}"
    if near := _PROXY.search(reason):
        own = configured("server.trusted_proxies", [_address(near[1])])
        return f"# if {near[1]} is the server's proxy, in the configuration:\n{own}"
    headers: list[Fault] = _SENT.findall(reason.partition("has to send")[2])
    if not headers:
        return other
    return f"# if the page is the server's own, behind a proxy:\n{proxy.fix(*headers)}\n{other}"


def _address(text: str) -> str:
    return "unix" if text == "None" else text
