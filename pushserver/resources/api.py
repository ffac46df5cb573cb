"""`POST /api/{method}`: the server API, as the `cent` package speaks it.

The answer is 200 with `{"result": {...}}` or `{"error": {"code", "message"}}`; 401 for a
wrong key, 404 for an unknown method and 400 for a body that is not JSON.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

from pushserver.auth.identity import Identity
from pushserver.auth.keys import Key
from pushserver.auth.publishers import publisher
from pushserver.channels import jsontext
from pushserver.channels.jsontext import MALFORMED
from pushserver.channels.publication import Draft
from pushserver.errors import InvalidData
from pushserver.resources.api_methods import (
    KNOWN,
    METHODS,
    WITHOUT_PROOF,
    Methods,
    api_error,
    position,
)
from pushserver.resources.publish import receipt_at_once
from pushserver.resources.top import Load
from pushserver.sessions.node import Node
from pushserver.web.body import check_coding
from pushserver.web.gate import Gate
from pushserver.web.mount import surroundings
from pushserver.web.resource import (
    Answer,
    ContainerResource,
    LeafResource,
    Refusal,
    answer_json,
    encode_json,
    header,
)
from pushserver.web.short_post import AtOnce


class ApiResource(ContainerResource):
    """`/api/`: one resource for each method."""

    def __init__(self, node: Node, gate: Gate, sources: Callable[[], list[Any]], load: Load):
        super().__init__()
        self._methods = partial(Methods, node, sources, load)
        self._node = node
        self._gate = gate

    def getChild(self, path: bytes, request: Request) -> Resource:
        name = path.decode("utf-8", "replace")
        return (
            MethodResource(self._methods, self._gate, self._node, name)
            if not request.postpath
            else super().getChild(path, request)
        )


class MethodResource(LeafResource):
    """One method."""

    def __init__(
        self,
        methods: Callable[[Key, str], Methods],
        gate: Gate,
        node: Node,
        name: str,
    ):
        super().__init__()
        self._methods = methods
        self._node = node
        self._gate = gate
        self._name = name

    def answer_post(self, request: Request) -> Answer:
        return self._answer(request)

    def answer_at_once(self, request: Request, body: bytes) -> AtOnce | None:
        """Answer one publication on the short path; see `short_post.AnswerAtOnce`."""
        receipt = receipt_at_once(self._node, partial(self._draft_at_once, request, body))
        assert not isinstance(receipt, Deferred), "those that wait have no draft"
        return None if receipt is None else (200, encode_json({"result": position(receipt)}), b"")

    def _draft_at_once(self, request: Request, body: bytes) -> Draft | None:
        """The publication of a call, counted for its publisher; None if it may have to wait."""
        node, identity = self._node, self._gate.identity_at_once(request)
        if self._name != "publish" or not node.is_immediate or identity is None:
            return None
        key = identity.key or self._gate.check_caller(request)
        identity, address = Identity(key=key), self._gate.address(request)
        methods = self._methods(key, publisher(identity, address))
        draft = methods.draft(jsontext.compact(body))
        node.publications.check(identity, address)
        return draft

    async def _answer(self, request: Request) -> bytes:
        key = self._gate.check_caller(request, proven=self._name not in WITHOUT_PROOF)
        assert request.content is not None
        check_coding(header(request, "content-encoding") or "")
        body: bytes = request.content.read().removeprefix(BOM_UTF8) or b"{}"
        if self._name not in METHODS:
            raise Refusal(404, f"unknown method {self._name[:40]!r}, expected one of {KNOWN}")
        try:
            msgspec.json.decode(body, type=dict[str, Raw])
        except MALFORMED as error:
            text = jsontext.reason(body, error)
            raise Refusal(400, f"the body is no JSON object: {text}") from None
        try:
            # The whole body at once: then each part of it is valid and compact, too.
            body = jsontext.compact(body)
        except InvalidData as error:
            return answer_json(request, api_error(error))
        identity, address = Identity(key=key), self._gate.address(request)
        count = publications(self._name, body)
        if count:
            self._node.publications.check(identity, address, count)
        methods = self._methods(key, publisher(identity, address))
        answer = await methods.call(self._name, body)
        if methods.denied:
            surroundings(request).log_refusal(request, 403, methods.denied)
        # The client `cent` expects the replies of a batch without a `result` around them.
        return answer_json(request, answer.get("result") if self._is_batch(answer) else answer)

    def _is_batch(self, answer: dict[str, object]) -> bool:
        return self._name == "batch" and "result" in answer


def publications(name: str, body: bytes) -> int:
    """The number of publications that a call causes; 0 if it is not valid."""
    try:
        if name == "publish":
            return 1
        if name == "broadcast":
            return len(msgspec.json.decode(body, type=_Channels).channels)
        if name == "batch":
            commands = msgspec.json.decode(body, type=_Commands).commands
            calls = (call for command in commands for call in command.items())
            return sum(publications(each, bytes(call)) for each, call in calls if each != "batch")
    except MALFORMED:
        # The method itself has the error.
        pass
    return 0


class _Channels(msgspec.Struct):
    channels: list[str]


class _Commands(msgspec.Struct):
    commands: list[dict[str, Raw]]
