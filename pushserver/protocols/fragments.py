"""Fragments: representations in which each publication is HTML text."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from pushserver.channels.publication import Publication
from pushserver.protocols.formats import event_stream, frame_stream, reset_texts, sse_data, sse_id
from pushserver.protocols.representations import RESERVED, Representation

FAILED_EVENT = f"{RESERVED}failed"
"""The name of the event in place of a publication that has no fragment, because of an error."""

FAILED = "the fragment of this publication could not be made; the log of the server says why"
"""The reason that readers get."""

Render = Callable[[Publication], bytes | None]
"""Makes the fragment of a publication, in UTF-8: empty for none, None after an error."""

_LINE_BREAK = re.compile(rb"\r\n|\r|\n")
_encode = msgspec.json.Encoder().encode


ACTIONS = ("append", "prepend", "replace", "update", "before", "after", "remove")
"""The actions of `<turbo-stream>` with one target; the first is the default."""

MODES = ("append", "prepend", "replace", "inner", "before", "after", "remove", "outer")
"""The modes of `datastar-patch-elements`; the first is the default."""

Wrap = Callable[[Publication, bytes], bytes]
"""Makes the text of a publication from its fragment."""


def html_fragments(render: Render) -> Representation:
    """Publications as the fragments that `render` makes, as they are.

    Nothing is sent for an empty one. After an error, readers are told the publication that they
    miss, and not the error: it may name files.
    """

    def html(row: Publication) -> bytes:
        fragment = render(row)
        if fragment is None:
            return b"<!-- %b %d: %b -->" % (row.channel.encode(), row.offset, FAILED.encode())
        return fragment

    return Representation(
        event_stream(_blocks(render, _unwrapped)),
        frame_stream(_texts(render, _unwrapped), reset_texts),
        html=html,
    )


def turbo_fragments(render: Render, action: str) -> Representation:
    """The fragments in a `<turbo-stream>` each, unless they begin with one.

    The target is the element whose id is the name of the channel.
    """

    def wrap(row: Publication, fragment: bytes) -> bytes:
        if fragment.startswith(b"<turbo-stream"):
            return fragment
        # The name of a channel has no letter that HTML would take for markup.
        names = action.encode(), row.channel.encode()
        head = b'<turbo-stream action="%b" target="%b"><template>' % names
        return head + fragment + b"</template></turbo-stream>"

    return Representation(
        event_stream(_blocks(render, wrap)), frame_stream(_texts(render, wrap), reset_texts)
    )


def datastar_fragments(render: Render, mode: str) -> Representation:
    """The fragments in an event of Datastar each.

    The target is the element whose id is the name of the channel; in the mode `outer`, each
    element of the fragment is that of its own id.
    """

    def wrap(row: Publication, fragment: bytes) -> bytes:
        head = [b"mode " + mode.encode(), b'selector [id="%b"]' % row.channel.encode()]
        elements = [b"elements " + one for one in _LINE_BREAK.split(fragment)]
        return b"\n".join(elements if mode == "outer" else head + elements)

    return Representation(event_stream(_blocks(render, wrap, b"event: datastar-patch-elements\n")))


def _unwrapped(row: Publication, fragment: bytes) -> bytes:
    return fragment


def _blocks(render: Render, wrap: Wrap, event: bytes = b"") -> Callable[[Publication], bytes]:
    """Make the blocks of an event stream, with the line `event` before their data."""

    def block(row: Publication) -> bytes:
        fragment = render(row)
        if fragment is None:
            name = FAILED_EVENT.encode()
            return sse_id(row) + b"event: %b\n" % name + sse_data(_encode(_failure(row)))
        if not fragment:
            return sse_id(row) + b"\n"
        lines = [b"data: %b\n" % line for line in _LINE_BREAK.split(wrap(row, fragment))]
        return sse_id(row) + event + b"".join(lines) + b"\n"

    return block


def _texts(render: Render, wrap: Wrap) -> Callable[[Publication], bytes]:
    """Make the texts of a WebSocket."""

    def text(row: Publication) -> bytes:
        fragment = render(row)
        if fragment is None:
            return _encode({"failed": _failure(row)})
        return wrap(row, fragment) if fragment else b""

    return text


def _failure(row: Publication) -> dict[str, object]:
    return {"channel": row.channel, "offset": row.offset, "id": row.id, "reason": FAILED}
