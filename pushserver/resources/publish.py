"""`POST /channels/{name}`: publishing a body."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec import structs
from twisted.internet.defer import Deferred
from twisted.web.server import Request

from pushserver.auth.identity import Identity
from pushserver.auth.publishers import publisher
from pushserver.channels import jsontext
from pushserver.channels.idempotency import check_key
from pushserver.channels.names import check_event
from pushserver.channels.publication import ClientInfo, Draft, Receipt, check_tags
from pushserver.errors import InvalidData, InvalidName, NotJSON, TooMany, Unavailable
from pushserver.resources.bulk import MEDIA_TYPES, Bulks
from pushserver.sessions.node import Node
from pushserver.sessions.request_session import RequestSession
from pushserver.usercode import coroutines
from pushserver.web.body import check_coding, media_type, read_body
from pushserver.web.gate import Gate
from pushserver.web.resource import answer_json, encode_json, header
from pushserver.web.short_post import CURSOR, AtOnce, Soon, raise_failure

_NUMBERS = (b"NaN", b"Infinity", b"-Infinity")
"""Numbers that JSON does not have. A text may begin with one of them."""


def publish_at_once(
    request: Request, channel: str, node: Node, gate: Gate, body: bytes
) -> Soon | None:
    """Publish the body of a request on the short path; see `short_post.AnswerAtOnce`.

    `publish` handles all other requests, and those that are refused.
    """
    receipt = receipt_at_once(node, partial(_draft_at_once, request, channel, node, gate, body))
    if isinstance(receipt, Deferred):
        return receipt.addCallback(_created)
    return None if receipt is None else _created(receipt)


def _created(receipt: Receipt) -> AtOnce:
    return 201, encode_json(_position(receipt)), receipt.id.encode()


def receipt_at_once(
    node: Node, make_draft: Callable[[], Draft | None]
) -> Receipt | Deferred[Receipt] | None:
    """Publish on the short path; None for a request of the long path.

    `make_draft` counts the publication for its publisher, and returns None if it may have to wait.
    If the store or a bound of the channels refuses it, the long path counts it a second time.
    """
    try:
        draft = make_draft()
    except Exception:
        # The long path raises it again, and answers it.
        return None
    if draft is None:
        return None
    try:
        if node.is_immediate:
            return node.publish_at_once(draft)
        return coroutines.start(node.publish(draft))
    except (Unavailable, TooMany):
        return None


def _draft_at_once(
    request: Request, channel: str, node: Node, gate: Gate, body: bytes
) -> Draft | None:
    """The publication of a request, counted for its publisher; None if it may have to wait."""
    identity = gate.identity_at_once(request)
    content_type = header(request, "content-type") or ""
    if (
        identity is None
        or gate.check_publisher(request, identity, channel)
        or media_type(content_type) in MEDIA_TYPES
    ):
        return None
    data = read_body(content_type, body, _compact, msgspec.json.encode)
    draft = _draft(request, channel, gate, identity, data)
    node.publications.check(identity, gate.address(request))
    return draft


async def publish(
    request: Request, channel: str, node: Node, gate: Gate, bulks: Bulks, identity: Identity
) -> bytes:
    """Publish the request's body to the channel: `201 {"offset", "epoch", "id"}`.

    Each line of an NDJSON body is a publication; see `bulk.publish_lines`.
    """
    raise_failure(request)
    handled = gate.check_publisher(request, identity, channel)
    content_type = header(request, "content-type") or ""
    check_coding(header(request, "content-encoding") or "")
    assert request.content is not None
    body = request.content.read()
    draft, address = _draft(request, channel, gate, identity), gate.address(request)
    ask = None
    if handled:
        session = RequestSession(identity, gate.visit(request, "http"))
        ask = partial(_ask, node, gate, session, channel)
    if media_type(content_type) in MEDIA_TYPES:
        admit = partial(_admit, node, gate, identity, channel, address)
        return await bulks.publish(request, draft, body, node, admit, ask)
    node.publications.check(identity, address)
    data = read_body(content_type, body, _compact, msgspec.json.encode)
    if ask is not None:
        await ask(data)
    receipt = await node.publish(structs.replace(draft, data=data))
    request.setResponseCode(201)
    request.setHeader(CURSOR, receipt.id.encode())
    return answer_json(request, _position(receipt))


def _position(receipt: Receipt) -> dict[str, object]:
    return {"offset": receipt.offset, "epoch": receipt.epoch, "id": receipt.id}


def _draft(
    request: Request, channel: str, gate: Gate, identity: Identity, data: bytes = b""
) -> Draft:
    """The publication of a request."""
    info = ClientInfo("", identity.user, identity.info) if identity.user else None
    key, by = _key(request), publisher(identity, gate.address(request))
    return Draft(channel, data, _event(request), _tags(request), info, key, by)


def _admit(
    node: Node, gate: Gate, identity: Identity, channel: str, address: str | None, count: int
) -> None:
    """Count some lines of a body; its publication may take minutes, so the rules may change."""
    gate.check_still_publisher(identity, channel)
    node.publications.check(identity, address, count)


async def _ask(node: Node, gate: Gate, session: RequestSession, channel: str, data: bytes) -> None:
    await node.handlers.publish(session, channel, data)
    # The rules may have changed while the handler ran.
    gate.check_still_publisher(session.identity, channel)


def _compact(text: bytes) -> bytes:
    try:
        return jsontext.compact(text)
    except InvalidData as error:
        word = text.strip()
        if word.startswith(_NUMBERS) and word not in _NUMBERS:
            raise NotJSON(str(error)) from None
        raise


def _event(request: Request) -> str:
    name = request.args.get(b"event", [b"message"])[-1]
    try:
        return check_event(name.decode())
    except UnicodeDecodeError:
        raise InvalidName(f"invalid event name {name[:140]!r}: expected UTF-8") from None


def _tags(request: Request) -> dict[str, str] | None:
    """The tags of `tag.NAME=TEXT` in the query."""
    prefix = b"tag."
    given = {name: values[-1] for name, values in request.args.items() if name.startswith(prefix)}
    if not given:
        return None
    try:
        tags = {name.removeprefix(prefix).decode(): text.decode() for name, text in given.items()}
    except UnicodeDecodeError:
        raise InvalidData(f"invalid tags {str(given)[:140]}: expected UTF-8") from None
    return check_tags(tags)


def _key(request: Request) -> str:
    key = header(request, "idempotency-key")
    if key is None:
        key = header(request, "x-idempotency-key")
    return "" if key is None else check_key(key)
