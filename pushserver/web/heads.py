"""Frees the head and the body of a request while its answer takes long."""

from __future__ import annotations

from typing import Any

from twisted.web.http_headers import Headers

from pushserver.web.pipeline import DeadlineChannel

_LOGGED = (b"referer", b"user-agent")
"""Headers that the log of another site may have (`http.combinedLogFormatter`)."""


def forget_head(request: Any, answered: bool) -> None:
    """Drop the parsed head and the body of a request whose answer takes long.

    A head of 14 KB with 400 fields takes 93 KB. `answered`: the head of the answer is sent, so
    drop that too. Another site, in which the server is mounted, keeps the URL for its log.
    """
    kept: dict[bytes, list[bytes]] = {}
    if not isinstance(request.channel, DeadlineChannel):
        for name in _LOGGED:
            kept[name] = request.requestHeaders.getRawHeaders(name, [])
    else:
        request.uri = request.path = b""
    request.requestHeaders = Headers(kept)
    if answered:
        request.responseHeaders = Headers()
    request.received_cookies = request.args = request.prepath = request.postpath = None
    if request.content is not None:
        request.content.close()
        request.content = None
