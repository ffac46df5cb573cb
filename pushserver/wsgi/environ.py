"""The environment of a request for a WSGI application (PEP 3333).

Its texts have a character for each byte of the request (latin-1).
"""

from __future__ import annotations

import re
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes

from twisted.web.server import Request

from pushserver.auth.origin import host_name, host_port
from pushserver.auth.proxies import Proxies, Trust
from pushserver.web.checks import client_address, is_forwarding, own_origin
from pushserver.web.peer import host
from pushserver.wsgi.errors import Errors
from pushserver.wsgi.file_wrapper import FileWrapper
from pushserver.wsgi.interface import Environ

_NAME = re.compile(rb"[A-Za-z0-9-]+")
"""Names with an underscore are left out: `X_User` and `X-User` have one name in the environment."""

_LEFT_OUT = frozenset(
    {
        # These have names of their own in the environment.
        *(b"content-type", b"content-length"),
        # twisted.web has decoded the body.
        b"transfer-encoding",
        # HTTP_PROXY is a setting of HTTP clients, which read it from the environment (httpoxy).
        b"proxy",
    }
)


def environ(request: Request, trust: Trust, body: BinaryIO) -> Environ:
    """The environment of this request; `body` is all of its body.

    Address and host are those of the client if the request came from one of the configured
    proxies, the scheme also if it came from another proxy on this machine. A host that anyone may
    choose would be in the links of mails that the application sends. From other peers than the
    configured proxies, headers of proxies are left out, since anyone can send them.
    """
    proxies = trust.proxies
    scheme, _ = own_origin(request, trust.near)
    _, named = own_origin(request, proxies)
    address = client_address(request, proxies) or ""
    script, path = _paths(request)
    values: Environ = {
        "REQUEST_METHOD": _text(request.method),
        "SCRIPT_NAME": script,
        "PATH_INFO": path,
        "QUERY_STRING": _text(request.uri.partition(b"?")[2]),
        "REQUEST_URI": _text(request.uri),
        "SERVER_PROTOCOL": _text(request.clientproto),
        "SERVER_SOFTWARE": "pushserver",
        "REMOTE_ADDR": address,
        **_server(request, named, scheme),
        **_headers(request, proxies),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.input": body,
        # All of the body is there, and the input ends with it.
        "wsgi.input_terminated": True,
        "wsgi.errors": Errors(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
    }
    peer = request.getClientAddress()
    if address and address == host(peer):
        values["REMOTE_PORT"] = str(getattr(peer, "port", ""))
    if named:
        values["HTTP_HOST"] = named
    length = _length(request, body)
    if length is not None:
        values["CONTENT_LENGTH"] = str(length)
    if (media := request.requestHeaders.getRawHeaders(b"content-type")) is not None:
        values["CONTENT_TYPE"] = _text(media[-1])
    return values


def _paths(request: Request) -> tuple[str, str]:
    """SCRIPT_NAME, which is empty unless the server is mounted in another site, and PATH_INFO."""
    above = 1 + int(getattr(request, "above", 0))
    parts = request.path.split(b"/")
    script, path = b"/".join(parts[:above]), b"".join(b"/" + part for part in parts[above:])
    return _text(unquote_to_bytes(script)), _text(unquote_to_bytes(path))


def _server(request: Request, named: str, scheme: str) -> dict[str, str]:
    """The name and the port: those of the Host, else those of the socket."""
    if named:
        return {
            "SERVER_NAME": host_name(named),
            "SERVER_PORT": str(host_port(named, scheme == "https")),
        }
    address: Any = request.getHost()
    return {
        "SERVER_NAME": str(getattr(address, "host", "localhost")),
        "SERVER_PORT": str(getattr(address, "port", 443 if scheme == "https" else 80)),
    }


def _headers(request: Request, proxies: Proxies) -> dict[str, str]:
    trusted = host(request.getClientAddress()) in proxies
    fields = {}
    for raw, values in request.requestHeaders.getAllRawHeaders():
        name = raw.lower()
        if name in _LEFT_OUT or _NAME.fullmatch(name) is None:
            continue
        if is_forwarding(name) and not trusted:
            continue
        separator = b"; " if name == b"cookie" else b", "
        fields["HTTP_" + _text(name).upper().replace("-", "_")] = _text(separator.join(values))
    return fields


def _length(request: Request, body: BinaryIO) -> int | None:
    """The length of the body; None for a request without one."""
    headers = request.requestHeaders
    if not (headers.hasHeader(b"content-length") or headers.hasHeader(b"transfer-encoding")):
        return None
    length = body.seek(0, 2)
    body.seek(0)
    return length


def _text(data: bytes) -> str:
    return data.decode("latin-1")
