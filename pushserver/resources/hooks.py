"""`POST /hooks/{name}`: webhooks, by which outside services publish through a source."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.web.checks import check_origin
from pushserver.web.mount import surroundings
from pushserver.web.resource import (
    RETRY,
    Answer,
    ContainerResource,
    LeafResource,
    NotFound,
    answer_json,
)

Receive = Callable[[Mapping[str, str], bytes], Awaitable[tuple[int, object]]]


class HooksResource(ContainerResource):
    """`/hooks/`: one resource for each source that receives requests.

    `hooks`: the `receive` of each IHook, by the name of the source.
    """

    def __init__(self, hooks: Mapping[str, Receive]):
        super().__init__()
        self._hooks = hooks

    def getChild(self, path: bytes, request: Request) -> Resource:
        name = path.decode("utf-8", "replace")
        if request.postpath or name not in self._hooks:
            return NotFound()
        return HookResource(self._hooks[name])


class HookResource(LeafResource):
    """The hook of one source."""

    def __init__(self, receive: Receive):
        super().__init__()
        self._receive = receive

    def answer_post(self, request: Request) -> Answer:
        return self._answer(request)

    async def _answer(self, request: Request) -> bytes:
        # Services send no Origin. The check refuses pages in a browser, which could post where no
        # signature is needed.
        check_origin(request, surroundings(request).trust)
        assert request.content is not None
        body: bytes = request.content.read()
        status, answer = await self._receive(_headers(request), body)
        request.setResponseCode(status)
        if status in (429, 503):
            for name, value in RETRY.items():
                request.setHeader(name, value)
        return answer_json(request, answer)


def _headers(request: Request) -> dict[str, str]:
    """The headers by names in lower case; repeated ones are joined by commas."""
    return {
        name.decode("latin-1").lower(): ", ".join(value.decode("latin-1") for value in values)
        for name, values in request.requestHeaders.getAllRawHeaders()
    }
