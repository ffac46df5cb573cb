"""`POST /hooks/{name}`: where outside services tell a source what happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.web.mount import surroundings
from pushserver.web.resource import (
    RETRY,
    Answer,
    Door,
    Folder,
    NotHere,
    answer_json,
    check_origin,
)

Receive = Callable[[Mapping[str, str], bytes], Awaitable[tuple[int, object]]]


class Hooks(Folder):
    """`/hooks/`: a door for each source that is posted to; `receive` is that of an IHook."""

    def __init__(self, hooks: Mapping[str, Receive]):
        super().__init__()
        self._hooks = hooks

    def getChild(self, path: bytes, request: Request) -> Resource:
        name = path.decode("utf-8", "replace")
        if request.postpath or name not in self._hooks:
            return NotHere()
        return HookDoor(self._hooks[name])


class HookDoor(Door):
    """One source."""

    def __init__(self, receive: Receive):
        super().__init__()
        self._receive = receive

    def answer_post(self, request: Request) -> Answer:
        return self._answer(request)

    async def _answer(self, request: Request) -> bytes:
        # Services send no Origin; a page in a browser cannot be told from them where nothing is
        # signed.
        check_origin(request, surroundings(request).allowed_origins)
        assert request.content is not None
        body: bytes = request.content.read()
        status, answer = await self._receive(_headers(request), body)
        request.setResponseCode(status)
        if status in (429, 503):
            for name, value in RETRY.items():
                request.setHeader(name, value)
        return answer_json(request, answer)


def _headers(request: Request) -> dict[str, str]:
    """By names in lower case; several of one name are joined by commas."""
    return {
        name.decode("latin-1").lower(): ", ".join(value.decode("latin-1") for value in values)
        for name, values in request.requestHeaders.getAllRawHeaders()
    }
