"""Publishing by HTTP: what a body means."""

from __future__ import annotations

import msgspec
from twisted.web.server import Request

from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event
from pushserver.channels.publication import Draft
from pushserver.errors import InvalidData, InvalidKey, InvalidName, NotJSON, Unavailable
from pushserver.sessions.node import Node
from pushserver.web.gate import Gate
from pushserver.web.resource import Refusal, answer_json, header

# A text may begin so; only in JSON would these be numbers, and JSON does not have them.
_WORDS = (b"NaN", b"Infinity", b"-Infinity")


async def publish(request: Request, channel: str, node: Node, gate: Gate) -> bytes:
    """Publish the request's body to the channel: `201 {"offset", "epoch", "id"}`."""
    gate.check(request)
    try:
        draft = Draft(channel, _data(request), _event(request), key=_key(request))
        receipt = await node.publish(draft)
    except (InvalidData, InvalidName, InvalidKey) as error:
        raise Refusal(400, str(error)) from None
    except Unavailable as error:
        raise Refusal(503, str(error), {"retry-after": "1"}) from None
    request.setResponseCode(201)
    return answer_json(
        request, {"offset": receipt.offset, "epoch": receipt.epoch, "id": receipt.id}
    )


def _data(request: Request) -> bytes:
    """The body as JSON text.

    A JSON body as it is; any other as JSON if it is JSON, else as a string: what plain
    `curl -d` sends says that it is a form.
    """
    assert request.content is not None
    body: bytes = request.content.read()
    if not body:
        raise Refusal(400, "the body is empty, expected JSON or text")
    media = (header(request, "content-type") or "").partition(";")[0].strip().lower()
    if media.startswith("multipart/"):
        raise Refusal(415, f"content-type {media[:80]} is not understood, expected JSON or text")
    if media == "application/json" or media.endswith("+json"):
        return jsontext.compact(body)
    try:
        return jsontext.compact(body)
    except InvalidData as error:
        word = body.strip()
        if isinstance(error, NotJSON) or (word.startswith(_WORDS) and word not in _WORDS):
            return msgspec.json.encode(_text(body))
        raise


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidData(f"invalid UTF-8 at byte {error.start}") from None


def _event(request: Request) -> str:
    name = request.args.get(b"event", [b"message"])[-1]
    try:
        return check_event(name.decode())
    except UnicodeDecodeError:
        raise InvalidName(f"invalid event name {name[:140]!r}: expected UTF-8") from None


def _key(request: Request) -> str:
    key = header(request, "idempotency-key")
    if key is None:
        key = header(request, "x-idempotency-key")
    return "" if key is None else check_key(key)
