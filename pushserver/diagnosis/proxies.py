"""Kinds of proxies: how they are recognised, and lines for their configurations.

A test finds all lines in docs/proxies.md, whose blocks are tested with real proxies.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Fault = Literal["Upgrade", "streams", "time", "Host", "X-Forwarded-For", "X-Forwarded-Proto"]
"""A header that a proxy does not send, streams that it holds back, or an answer that it does not
wait for."""

Lines = Mapping[str, str]
"""Lines by their place in the configuration."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A kind of proxy, with the lines against each fault.

    A fault without lines of its own is one that the proxy has only if its configuration adds it:
    then `block` replaces the present lines. `note` is a last line.
    """

    name: str
    block: Lines
    faults: Mapping[Fault, Lines]
    note: str = ""

    def fix(self, *faults: Fault) -> str:
        """The text to paste against these faults."""
        places: dict[str, list[str]] = {}
        if all(fault in self.faults for fault in faults):
            for fault in faults:
                for place, lines in self.faults[fault].items():
                    places.setdefault(place, []).append(lines)
        else:
            places = {place: [lines] for place, lines in self.block.items()}
        texts = ["\n".join([f"# {place}:", *lines]) for place, lines in places.items()]
        return "\n".join([*texts, *([self.note] if self.note else [])])


_LOCATION = "nginx, in the location"
NGINX = Proxy(
    "nginx",
    {},
    {
        "Upgrade": {
            "nginx, in http {}": (
                "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }"
            ),
            _LOCATION: (
                "proxy_http_version 1.1;\n"
                "proxy_set_header Upgrade $http_upgrade;\n"
                "proxy_set_header Connection $connection_upgrade;"
            ),
        },
        "streams": {_LOCATION: "proxy_buffering off;\ngzip off;"},
        "time": {_LOCATION: "proxy_read_timeout 75s;"},
        "Host": {_LOCATION: "proxy_set_header Host $http_host;"},
        "X-Forwarded-For": {
            _LOCATION: "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
        },
        "X-Forwarded-Proto": {_LOCATION: "proxy_set_header X-Forwarded-Proto $scheme;"},
    },
)
CADDY = Proxy(
    "Caddy",
    {
        "Caddyfile, these lines alone in place of the present reverse_proxy": """\
reverse_proxy 127.0.0.1:8080 {
    lb_try_duration 10s
    transport http {
        keepalive 10s
    }
}"""
    },
    {},
)
_BACKEND = "haproxy.cfg, in the backend"
HAPROXY = Proxy(
    "HAProxy",
    {
        "haproxy.cfg, these lines alone in place of the present backend": """\
backend pushserver
    mode http
    option forwardfor
    http-request set-header X-Forwarded-Proto https if { ssl_fc }
    http-request set-header X-Forwarded-Proto http if !{ ssl_fc }
    timeout connect 1s
    timeout server 75s
    retries 10
    server pushserver 127.0.0.1:8080"""
    },
    {
        "time": {
            "haproxy.cfg, in the frontend": "timeout client 75s",
            _BACKEND: "timeout server 75s",
        },
        "X-Forwarded-For": {_BACKEND: "option forwardfor"},
        "X-Forwarded-Proto": {
            _BACKEND: (
                "http-request set-header X-Forwarded-Proto https if { ssl_fc }\n"
                "http-request set-header X-Forwarded-Proto http if !{ ssl_fc }"
            )
        },
    },
)
_HOST = "Apache, in the <VirtualHost>"
_PASS = "ProxyPass / http://127.0.0.1:8080/ upgrade=websocket retry=0 ttl=10"
_PRESERVE = "ProxyPreserveHost On"
_SCHEME = "RequestHeader set X-Forwarded-Proto expr=%{REQUEST_SCHEME}"
APACHE = Proxy(
    "Apache",
    {
        "Apache, these lines alone for the server in the <VirtualHost>": (
            f"{_PRESERVE}\n{_SCHEME}\n{_PASS}"
        )
    },
    {
        "Upgrade": {_HOST: _PASS},
        "time": {_HOST: "ProxyTimeout 75"},
        "Host": {_HOST: _PRESERVE},
        "X-Forwarded-Proto": {_HOST: _SCHEME},
    },
)
PROXIES = {proxy.name: proxy for proxy in (NGINX, CADDY, HAPROXY, APACHE)}
UNKNOWN = Proxy("", {}, NGINX.faults, "# of other proxies: docs/proxies.md")

_NAMES = {name.lower(): name for name in PROXIES} | {"openresty": "nginx", "traefik": "Traefik"}
_NAME = re.compile(rf"(?<![a-z])({'|'.join(_NAMES)})(?![a-z])")
_OWN = "pushserver"


def proxy_named(name: str) -> Proxy:
    """The proxy of a name that `recognised` returns."""
    return PROXIES.get(name, UNKNOWN)


def recognised(
    server: str = "", via: str = "", lower: bool = False, request: Collection[str] = ()
) -> str:
    """The name of the kind of proxy in front, empty if it is not known.

    `server` and `via`: those headers of an answer. `lower`: whether its names of headers are in
    lower case. `request`: the names of the headers that arrived with a request.
    """
    if match := _NAME.search(f"{server} {via}".lower()):
        return _NAMES[match[1]]
    if server not in ("", _OWN) or via:
        return ""
    if server and lower:
        # HAProxy leaves `Server` as it is, and writes the names of headers in lower case.
        return "HAProxy"
    sent = {name.lower() for name in request}
    if "x-forwarded-server" in sent:
        # Apache leaves `Server` as it is, too; Traefik also sends X-Real-Ip.
        return "Traefik" if "x-real-ip" in sent else "Apache"
    return ""
