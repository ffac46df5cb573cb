"""permessage-deflate (RFC 7692) on terms that let all connections share one compressed frame.

With a compressor for each connection, a frame takes 75 us and 117 KB for each, instead of 13 us.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autobahn.websocket.compress import (
    PerMessageDeflate,
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
)
from autobahn.websocket.protocol import WebSocketProtocol

Accept = Callable[[Sequence[object]], PerMessageDeflateOfferAccept | None]

_WINDOW_BITS = 15


class _Terms(PerMessageDeflateOfferAccept):
    """No message refers to an earlier one, in either direction.

    A server may set both terms for any offer (RFC 7692, 7.1.1); Autobahn would send the first only
    to a client that asked for it.
    """

    def get_extension_string(self) -> str:
        return "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


class Inflater(PerMessageDeflate):
    """Reads the compressed messages of a connection; keeps nothing between two of them."""

    def __init__(self, max_bytes: int):
        super().__init__(True, True, True, _WINDOW_BITS, _WINDOW_BITS, None, max_bytes)

    def end_decompress_message(self) -> None:
        super().end_decompress_message()
        # 40 KB, which Autobahn would keep until the next message.
        self._decompressor = None


def answer_to(offers: str, accept: Accept) -> str:
    """The extension of the answer to these valid offers, as Autobahn writes it; "" if declined."""
    parsed = WebSocketProtocol()._parseExtensionsHeader(offers)
    accepted = accept([PerMessageDeflateOffer.parse(parameters) for _, parameters in parsed])
    return "" if accepted is None else str(accepted.get_extension_string())


def accept(max_bytes: int) -> Accept:
    """Autobahn's option that answers a client's offers; a message may inflate to `max_bytes`.

    An offer that asks for a smaller window of the server is declined: the shared frame is made
    with the largest.
    """

    def perMessageCompressionAccept(
        offers: Sequence[object],
    ) -> PerMessageDeflateOfferAccept | None:
        for offer in offers:
            if isinstance(offer, PerMessageDeflateOffer) and offer.request_max_window_bits in (
                0,
                _WINDOW_BITS,
            ):
                return _Terms(offer, True, 0, True, _WINDOW_BITS, None, max_bytes)
        return None

    return perMessageCompressionAccept
